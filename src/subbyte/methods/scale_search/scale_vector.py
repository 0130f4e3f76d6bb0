"""The scales of a network as one vector: how much wider or narrower each range is than it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from subbyte.numerics.fake_quantize import Quantizer
from subbyte.numerics.qparams import TensorQParams, quantize_weight
from subbyte.numerics.qspec import QSpec, qparams_of
from subbyte.placement.placement import QuantizedTensor
from subbyte.placement.simulation import Simulation

Search = Literal["scale", "clip"]


@dataclass(frozen=True)
class Start:
    """A tensor's parameters as they were, each (channels,).

    Attributes:
        scale: Its scale.
        zero_point: Its zero point.
        low: The lower end of its range.
        high: The upper end.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


@dataclass(frozen=True)
class Entry:
    """One number of the vector.

    Attributes:
        key: The tensor that it moves.
        end: Its scale ("both" ends), or one end of its range.
    """

    key: str
    end: Literal["both", "low", "high"]


class ScaleVector:
    """The scales of the tensors of the fewest bits as logarithms; 0 is as they were at first.

    The channels of a weight move together, and its integers are rounded anew. Tensors of 8 bits
    keep their ranges, if there are others.

    Attributes:
        tensors: Those that move, by key.
        starts: Their parameters as they were.
        entries: What each number moves.
        point: The vector as it is now.
    """

    def __init__(self, simulation: Simulation, search: Search) -> None:
        """The vector of a simulation, at 0.

        Args:
            simulation: All its tensors have parameters. `apply` gives it others.
            search: "scale" moves both ends of a range alike and keeps the zero point; "clip" moves
                each for itself, where a range has two.
        """
        self.simulation = simulation
        every = list(simulation.placement.tensors)
        narrow = [tensor for tensor in every if tensor.spec.bits < 8]
        self.tensors = {tensor.key: tensor for tensor in narrow or every}
        self.starts = {key: _start(simulation.quantizer(key)) for key in self.tensors}
        self.entries = [
            entry
            for key, tensor in self.tensors.items()
            for entry in _entries(key, tensor.spec, self.starts[key], search)
        ]
        self.point = np.zeros(len(self.entries))

    @torch.no_grad()
    def apply(self, point: np.ndarray) -> None:
        """Move the scales to `point`."""
        moved = dict.fromkeys(self.entries[i].key for i in np.flatnonzero(point != self.point))
        self.point = point.copy()
        for key in moved:
            self.simulation.put(key, self._params(self.tensors[key]))

    def _params(self, tensor: QuantizedTensor) -> TensorQParams:
        scale, zero_point = self._moved(tensor)
        if tensor.role == "weight":
            return quantize_weight(self.simulation.weight(tensor), scale, zero_point, tensor.spec)
        return TensorQParams(scale, zero_point)

    def _moved(self, tensor: QuantizedTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale and the zero point of a tensor at the point of now."""
        start, factors = self.starts[tensor.key], dict(self._factors(tensor.key))
        if "both" in factors:
            return start.scale * factors["both"], start.zero_point
        return qparams_of(start.low * factors["low"], start.high * factors["high"], tensor.spec)

    def _factors(self, key: str) -> Iterator[tuple[str, float]]:
        for number, entry in zip(self.point, self.entries, strict=True):
            if entry.key == key:
                yield entry.end, float(np.exp(number))


def _start(quantizer: Quantizer) -> Start:
    scale, spec = quantizer.scale, quantizer.spec
    zero_point = quantizer.zero_point.to(scale.dtype)
    low, high = (spec.low - zero_point) * scale, (spec.high - zero_point) * scale
    return Start(scale.clone(), quantizer.zero_point.clone(), low, high)


def _entries(key: str, spec: QSpec, start: Start, search: Search) -> list[Entry]:
    two_sided = bool((start.low < 0).any()) and bool((start.high > 0).any())
    if search == "scale" or spec.symmetric or not two_sided:
        return [Entry(key, "both")]
    return [Entry(key, "low"), Entry(key, "high")]
