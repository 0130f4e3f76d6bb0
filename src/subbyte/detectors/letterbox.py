"""Images of any sizes as the one tensor size that a detector's file takes, and boxes back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.models.detection.ssd import SSD

from subbyte.postprocessing import ATTRIBUTE, Anchored

Size = tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """Height and width of a file's images, and how an image of another size gets there.

    fit: "stretch" both sides, as an SSD does itself, so that nothing changes; or "pad", resize as
    far as it fits and fill up on the right and below with `fill`. antialias: as PIL does, else by
    plain bilinear interpolation.
    """

    size: Size
    fit: Literal["stretch", "pad"] = "stretch"
    antialias: bool = False
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)

    def images(self, images: Sequence[Tensor]) -> Tensor:
        """Images [3, h, w] of any sizes as [N, 3, H, W]."""
        return torch.stack([self._fitted(image) for image in images])

    def back(self, found: Mapping[str, np.ndarray], size: Size) -> dict[str, np.ndarray]:
        """Detections on the canvas in pixels of an image of `size`.

        `boxes` (n, 4), and `scores` and `labels` (n). Beyond a padded image nothing is: boxes are
        clipped to it, and those of which nothing is left are left out.
        """
        (height, width), (high, wide) = self._inner(size), size
        if (height, width) == size and self.fit == "stretch":
            return dict(found)
        boxes = found["boxes"] * np.array([wide / width, high / height] * 2, np.float32)
        if self.fit == "stretch":
            return {**found, "boxes": boxes}
        boxes = np.clip(boxes, 0, np.array([wide, high] * 2, np.float32))
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return {key: value[inside] for key, value in {**found, "boxes": boxes}.items()}

    def facts(self) -> dict[str, Any]:
        """The same for a file's metadata."""
        return {
            "size": list(self.size),
            "fit": self.fit,
            "antialias": self.antialias,
            "fill": list(self.fill),
        }

    def _inner(self, size: Size) -> Size:
        """Height and width of an image on the canvas."""
        if self.fit == "stretch":
            return self.size
        factor = min(self.size[0] / size[0], self.size[1] / size[1])
        height, width = (max(1, round(side * factor)) for side in size)
        return min(height, self.size[0]), min(width, self.size[1])

    def _fitted(self, image: Tensor) -> Tensor:
        inner = self._inner((image.shape[-2], image.shape[-1]))
        if inner != tuple(image.shape[-2:]):
            image = interpolate(
                image[None], inner, mode="bilinear", align_corners=False, antialias=self.antialias
            )[0]
        below, right = self.size[0] - inner[0], self.size[1] - inner[1]
        if not below and not right:
            return image
        fill = image.new_tensor(self.fill).view(3, 1, 1)
        return pad(image - fill, (0, right, 0, below)) + fill


def canvas_for(model: torch.nn.Module, sizes: Collection[Size]) -> Canvas:
    """The canvas for images of these sizes: theirs, if they have only one; else the model's own.

    A model that has none of its own, as it keeps the ratio of the sides, gets one that is as high
    as the highest image and as wide as the widest, and no larger than the model lets images be.
    """
    distinct = set(sizes)
    if len(distinct) == 1:
        return Canvas(next(iter(distinct)))
    facts = getattr(model, ATTRIBUTE, None)
    if isinstance(facts, Anchored):
        return Canvas(facts.size, antialias=facts.antialias)
    transform: Any = getattr(model, "transform", None)
    if isinstance(model, SSD) and transform.fixed_size is not None:
        width, height = transform.fixed_size
        return Canvas((height, width))
    sides = max(h for h, _ in distinct), max(w for _, w in distinct)
    factor = min(1.0, getattr(transform, "max_size", max(sides)) / max(sides))
    height, width = (round(side * factor) for side in sides)
    mean = getattr(transform, "image_mean", (0.0, 0.0, 0.0))
    return Canvas((height, width), "pad", fill=tuple(map(float, mean)))


def canvas_of(facts: dict[str, Any]) -> Canvas:
    """The canvas that a file's metadata describes."""
    height, width = facts["size"]
    return Canvas((height, width), facts["fit"], facts["antialias"], tuple(facts["fill"]))
