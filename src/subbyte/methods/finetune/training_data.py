"""What a whole network is tuned on: images, changed a little each time, and what float gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from subbyte.graph.batch import pixels_of
from subbyte.graph.float_model import FloatModel
from subbyte.utils.arguments import Arguments, image_lists

SHIFT = 16  # images are moved by up to this part of their sides


@dataclass(frozen=True)
class TuningData:
    """Images that a network is tuned on.

    Attributes:
        inputs: One tensor, (images, …), for each of the model's arguments.
        lists: Which of them the model takes as a list of images.
        held_out: Images that are not learned from and judge instead.
        multiply_adds: Of the network for one image, forward.
    """

    inputs: list[torch.Tensor]
    lists: list[bool]
    held_out: torch.Tensor
    multiply_adds: float

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.inputs[0])

    @property
    def pixels(self) -> int:
        """Of an image, all inputs together; 1 of what is not an image."""
        return pixels_of(_arguments([x[:1] for x in self.inputs], self.lists))

    @property
    def learned(self) -> torch.Tensor:
        """The images that are not held out."""
        order = torch.arange(self.count)
        return order[~torch.isin(order, self.held_out)]

    def images(self, chosen: torch.Tensor) -> list[Any]:
        """The model's positional arguments for some images."""
        return list(_arguments([x[chosen] for x in self.inputs], self.lists))

    def chunks(self, size: int) -> list[tuple[Any, ...]]:
        """All images as the model's arguments, so many at once, in place."""
        return [
            _arguments([x[start : start + size] for x in self.inputs], self.lists)
            for start in range(0, self.count, size)
        ]

    def varied(self, chosen: torch.Tensor, generator: torch.Generator) -> list[Any]:
        """Like `images`; each image moved a little and mirrored by chance, all inputs alike."""
        found = [x[chosen] for x in self.inputs]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        way = 2 * torch.rand(len(chosen), 2, generator=generator) - 1
        changed = [_varied(x, mirrored, way) if x.dim() == 4 else x for x in found]
        return list(_arguments(changed, self.lists))


@torch.no_grad()
def training_data(
    float_model: FloatModel,
    batches: Iterable[tuple[Any, ...]],
    images: int,
    held_out: Callable[[int], torch.Tensor],
) -> TuningData | None:
    """The first images to learn from.

    Args:
        float_model: The model; it runs once, on two images.
        batches: The calibration images.
        images: How many to take at most.
        held_out: Which of a number of images are held out.

    Returns:
        The images; `None` where they differ in size, or where what the model gives is not one row
        an image, as of two-stage detectors.
    """
    joined = _joined(batches, images)
    if joined is None:
        return None
    inputs, lists = joined
    some = _arguments([x[:2] for x in inputs], lists)
    count = min(2, len(inputs[0]))
    with FlopCounterMode(display=False) as counter:
        leaves = pytree.tree_leaves(float_model.raw(*some))
    if not all(isinstance(x, torch.Tensor) and len(x) == count for x in leaves):
        return None
    multiply_adds = counter.get_total_flops() / 2 / count
    return TuningData(inputs, lists, held_out(len(inputs[0])), multiply_adds)


def _arguments(found: list[torch.Tensor], lists: list[bool]) -> Arguments:
    """The model's positional arguments, lists of images where it takes lists."""
    args = (list(x) if apart else x for x, apart in zip(found, lists, strict=True))
    return Arguments(args, (i for i, apart in enumerate(lists) if apart))


def _varied(x: torch.Tensor, mirrored: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
    """Images (n, channels, height, width), some mirrored, each moved; edges are reflected."""
    height, width = x.shape[2:]
    most = torch.tensor([height // SHIFT, width // SHIFT])
    rows, columns = (way * (most + 0.5)).round().clamp(-most, most).long().add(most).T.tolist()
    wide = pad(x, (int(most[1]),) * 2 + (int(most[0]),) * 2, mode="reflect")
    moved = [
        image[:, row : row + height, column : column + width]
        for image, row, column in zip(wide, rows, columns, strict=True)
    ]
    return torch.stack(
        [y.flip(2) if flip else y for y, flip in zip(moved, mirrored.tolist(), strict=True)]
    )


def _joined(
    batches: Iterable[tuple[Any, ...]], images: int
) -> tuple[list[torch.Tensor], list[bool]] | None:
    """The first so many images, a tensor for each of the model's arguments, and which are lists.

    `None` where an argument is not a tensor or images differ in size.
    """
    columns: list[list[torch.Tensor]] = []
    lists: list[bool] = []
    left = images
    for args in batches:
        known = image_lists(args)
        lists = [i in known for i in range(len(args))]
        parts = [list(arg) if apart else [arg] for arg, apart in zip(args, lists, strict=True)]
        if not all(isinstance(part, torch.Tensor) for column in parts for part in column):
            return None
        if any(len({part.shape for part in column}) > 1 for column in parts):
            return None
        whole = [
            torch.stack(part) if apart else part[0]
            for part, apart in zip(parts, lists, strict=True)
        ]
        columns.append([part[:left] for part in whole])
        left -= len(whole[0])
        if left <= 0:
            break
    if any(len({part.shape[1:] for part in column}) > 1 for column in zip(*columns, strict=True)):
        return None
    return [torch.cat(column) for column in zip(*columns, strict=True)], lists
