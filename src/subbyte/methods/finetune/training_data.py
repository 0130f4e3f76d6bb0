"""What a whole network is tuned on: images, changed a little each time, and what float gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import pad
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from subbyte.graph.batch import are_images, pixels_of
from subbyte.methods.finetune.parameters import Saved
from subbyte.placement.simulation import Captured

SHIFT = 16  # images are moved by up to this part of their sides


@dataclass(frozen=True)
class Lessons:
    """Inputs, each (images, …), and the float network's own biases.

    lists: which of the inputs the model takes as a list of images. held_out: images that are not
    learned from and judge instead. multiply_adds: of the network for one image, forward.
    """

    inputs: list[torch.Tensor]
    lists: list[bool]
    own: Saved
    held_out: torch.Tensor
    multiply_adds: float

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.inputs[0])

    @property
    def pixels(self) -> int:
        """Of an image, all inputs together; 1 of what is no image."""
        return pixels_of(tuple(self._arguments([x[:1] for x in self.inputs])))

    @property
    def learned(self) -> torch.Tensor:
        """The images that are not held out."""
        order = torch.arange(self.count)
        return order[~torch.isin(order, self.held_out)]

    def images(self, chosen: torch.Tensor) -> list[Any]:
        """The model's positional arguments for some images."""
        return self._arguments([x[chosen] for x in self.inputs])

    def portions(self, size: int) -> list[tuple[Any, ...]]:
        """All images as the model's arguments, so many at once, in place."""
        return [
            tuple(self._arguments([x[start : start + size] for x in self.inputs]))
            for start in range(0, self.count, size)
        ]

    def varied(self, chosen: torch.Tensor, generator: torch.Generator) -> list[Any]:
        """Like `images`; each image moved a little and mirrored by chance, all inputs alike."""
        found = [x[chosen] for x in self.inputs]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        way = 2 * torch.rand(len(chosen), 2, generator=generator) - 1
        return self._arguments([_varied(x, mirrored, way) if x.dim() == 4 else x for x in found])

    @contextmanager
    def in_float(self, captured: Captured) -> Iterator[None]:
        """While it lasts, the network computes what the float network does."""
        now = Saved(captured)
        self.own.put_back_biases()
        try:
            with captured.in_float():
                yield
        finally:
            now.put_back_biases()

    def _arguments(self, found: list[torch.Tensor]) -> list[Any]:
        return [list(x) if apart else x for x, apart in zip(found, self.lists, strict=True)]


@torch.no_grad()
def lessons_of(
    captured: Captured, batches: Any, images: int, held_out: Callable[[int], torch.Tensor]
) -> Lessons | None:
    """The first so many images, while the network's biases are those of the float network.

    held_out: which of a number of images are held out. `None` where images differ in size, or where
    the outputs are not one row an image, as those of two-stage detectors.
    """
    joined = _joined(batches, images)
    if joined is None:
        return None
    lessons = Lessons(*joined, Saved(captured), held_out(len(joined[0][0])), 0.0)
    some = torch.arange(min(2, lessons.count))
    with captured.in_float(), FlopCounterMode(display=False) as counter:
        leaves = pytree.tree_leaves(captured.raw(*lessons.images(some)))
    if not all(isinstance(x, torch.Tensor) and len(x) == len(some) for x in leaves):
        return None
    return replace(lessons, multiply_adds=counter.get_total_flops() / 2 / len(some))


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


def _joined(batches: Any, images: int) -> tuple[list[torch.Tensor], list[bool]] | None:
    """The first so many images, a tensor for each of the model's arguments, and which are lists.

    `None` where an argument is no tensor or images differ in size.
    """
    columns: list[list[torch.Tensor]] = []
    lists: list[bool] = []
    left = images
    for args in batches:
        lists = [are_images(arg) for arg in args]
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
