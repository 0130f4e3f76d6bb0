"""Default boxes of an SSD, and the way from a box to what its network gives, and back.

Liu et al. 2016, "SSD: Single Shot MultiBox Detector", section 2.2. Boxes are relative to the image,
0 to 1, in the centre form (cx, cy, w, h) or the corner form (x1, y1, x2, y2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

# By which index a level's default boxes are sorted first: their place in the map, or their shape.
BoxOrder = Literal["place", "shape"]


@dataclass(frozen=True)
class Level:
    """The default boxes of one feature map.

    Attributes:
        cells: Height and width of the map.
        step: Pixels of the image from one cell to the next.
        shapes: Width and height in pixels of the boxes at each place of the map, in their order.
    """

    cells: int
    step: float
    shapes: tuple[tuple[float, float], ...]


def shapes(
    smallest: float, largest: float, ratios: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """Width and height in pixels of an SSD's usual boxes: two squares, and two for each ratio.

    Args:
        smallest: The side of the first square, in pixels.
        largest: With it the geometric mean of `smallest` is the side of the second square.
        ratios: w / h of the other boxes, of the first one's area, which come lying and standing.
    """
    mean = sqrt(smallest * largest)
    found = [(smallest, smallest), (mean, mean)]
    for ratio in ratios:
        long, short = smallest * sqrt(ratio), smallest / sqrt(ratio)
        found += [(long, short), (short, long)]
    return tuple(found)


def default_boxes(levels: Sequence[Level], size: int, order: BoxOrder) -> Tensor:
    """The default boxes of all feature maps, float32 [A, 4] in the centre form, clipped to [0, 1].

    Args:
        levels: The feature maps.
        size: The side of the network's input, in pixels.
        order: "place": map, row, column, shape; "shape": map, shape, row, column.
    """
    boxes: list[tuple[float, float, float, float]] = []
    for level in levels:
        # In this order of operations as the projects have it, so that not even rounding differs.
        centres = [(index + 0.5) / (size / level.step) for index in range(level.cells)]
        places = [(x, y) for y in centres for x in centres]
        sides = [(w / size, h / size) for w, h in level.shapes]
        if order == "place":
            boxes += [(x, y, w, h) for x, y in places for w, h in sides]
        else:
            boxes += [(x, y, w, h) for w, h in sides for x, y in places]
    return torch.tensor(boxes, dtype=torch.float32).clamp(0, 1)


def to_corners(centred: Tensor) -> Tensor:
    """From the centre form to the corner form; [..., 4]."""
    half = centred[..., 2:] / 2
    return torch.cat([centred[..., :2] - half, centred[..., :2] + half], dim=-1)


def to_centres(corners: Tensor) -> Tensor:
    """From the corner form to the centre form; [..., 4]."""
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def encode(corners: Tensor, defaults: Tensor, variances: tuple[float, float]) -> Tensor:
    """What the network should give for boxes in the corner form at `defaults`; all [..., 4].

    Offset of the centre in sides of the default box, over the first variance; logarithm of the
    ratio of the sides, over the second.

    Args:
        corners: Boxes in the corner form, [..., 4].
        defaults: The default boxes in the centre form, [..., 4].
        variances: Of centres and of sides.
    """
    boxes = to_centres(corners)
    centres = (boxes[..., :2] - defaults[..., :2]) / defaults[..., 2:] / variances[0]
    sides = torch.log(boxes[..., 2:] / defaults[..., 2:]) / variances[1]
    return torch.cat([centres, sides], dim=-1)


def decode(regression: Tensor, defaults: Tensor, variances: tuple[float, float]) -> Tensor:
    """The boxes in the corner form that the network means; the inverse of `encode`.

    Args:
        regression: What the network gives, [..., 4].
        defaults: The default boxes in the centre form, [..., 4].
        variances: Of centres and of sides.
    """
    centres = defaults[..., :2] + regression[..., :2] * variances[0] * defaults[..., 2:]
    sides = defaults[..., 2:] * torch.exp(regression[..., 2:] * variances[1])
    return to_corners(torch.cat([centres, sides], dim=-1))
