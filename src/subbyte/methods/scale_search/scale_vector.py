"""The grids of a network as one vector: how much wider or narrower each is than it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.numerics.qspec import qparams_of
from subbyte.placement.simulation import Captured

Search = Literal["scale", "clip"]


@dataclass(frozen=True)
class Start:
    """A grid as it was: its scale, zero point and the ends of its range, each (channels,)."""

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


@dataclass(frozen=True)
class Entry:
    """What one number of the vector moves: the grid's scale ("both" ends), or one of its ends."""

    grid: FakeQuantize
    end: Literal["both", "low", "high"]


class Sizes:
    """The grids of the fewest bits as a vector of logarithms; 0 is as they were at first.

    search: "scale" moves both ends of a range alike and keeps the zero point; "clip" moves each for
    itself, where a range has two. The channels of a weight move together. Grids of 8 bits keep
    their ranges, if there are others. Weights are held on their grids as long as this is open.
    """

    def __init__(self, captured: Captured, search: Search) -> None:
        self.weights = {q: captured.weight(t) for t, q in captured.quantizers("weight")}
        every = list(dict.fromkeys(q for _, q in captured.quantizers()))
        narrow = [q for q in every if q.spec.bits < 8]
        self.grids = narrow or every
        self.starts = {grid: _start(grid) for grid in self.grids}
        self.entries = [e for grid in self.grids for e in _entries(grid, self.starts[grid], search)]
        self.point = np.zeros(len(self.entries))

    def __enter__(self) -> Sizes:
        for grid in self.weights:
            self._hold(grid)
        return self

    def __exit__(self, *error: object) -> None:
        for grid in self.weights:
            grid.instead = None

    @torch.no_grad()
    def apply(self, point: np.ndarray) -> None:
        """Move the grids to `point`."""
        moved = {self.entries[i].grid for i in np.flatnonzero(point != self.point)}
        self.point = point.copy()
        for grid in moved:
            self._move(grid)
            if grid in self.weights:
                self._hold(grid)

    def _move(self, grid: FakeQuantize) -> None:
        start, low, high = self.starts[grid], 1.0, 1.0
        for number, entry in zip(self.point, self.entries, strict=True):
            if entry.grid is not grid:
                continue
            if entry.end == "both":
                grid.scale.copy_(start.scale * float(np.exp(number)))
                return
            if entry.end == "low":
                low = float(np.exp(number))
            else:
                high = float(np.exp(number))
        scale, zero_point = qparams_of(start.low * low, start.high * high, grid.spec)
        grid.scale.copy_(scale)
        grid.zero_point.copy_(zero_point)

    def _hold(self, grid: FakeQuantize) -> None:
        with torch.no_grad():
            grid.hold(grid.quantize(self.weights[grid]))


def _start(grid: FakeQuantize) -> Start:
    zero_point = grid.zero_point.to(grid.scale.dtype)
    low = (grid.spec.low - zero_point) * grid.scale
    high = (grid.spec.high - zero_point) * grid.scale
    return Start(grid.scale.clone(), grid.zero_point.clone(), low, high)


def _entries(grid: FakeQuantize, start: Start, search: Search) -> list[Entry]:
    two_sided = bool((start.low < 0).any()) and bool((start.high > 0).any())
    if search == "scale" or grid.spec.symmetric or not two_sided:
        return [Entry(grid, "both")]
    return [Entry(grid, "low"), Entry(grid, "high")]
