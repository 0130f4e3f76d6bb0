"""Relative errors: the energy of an error over that of the float values, in parts and in dB."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from subbyte.graph.batch import batch_size
from subbyte.graph.float_model import FloatModel
from subbyte.graph.output_loss import floats, is_logits
from subbyte.placement.simulation import Simulation
from subbyte.tasks.metrics import raw_noise


@dataclass
class Ratio:
    """The energy of some values, and that of their error, over all batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, value: torch.Tensor, exact: torch.Tensor) -> None:
        """Count values beside those in float."""
        self.signal += energy(exact)
        self.noise += energy(value - exact)

    @property
    def error(self) -> float | None:
        """Noise over signal; `None` where there is no signal, or it is not finite."""
        if self.signal == 0:
            return 0.0 if self.noise == 0 else None
        found = self.noise / self.signal
        return found if math.isfinite(found) else None


@dataclass
class OutputErrors:
    """How far raw outputs are from those of the float model, over all batches.

    Attributes:
        float_model: The model.
        images: How many were counted.
    """

    float_model: FloatModel
    images: int = 0
    _loss: float = 0.0
    _names: list[str] = field(default_factory=list)
    _energies: list[raw_noise.Energies] | None = field(default_factory=list)
    _logits: Ratio | None = None
    _is_known: bool = True

    def add(self, simulation: Simulation, outputs: Any, exact: Any, args: tuple[Any, ...]) -> None:
        """Count the outputs of a batch.

        Args:
            simulation: What gave them.
            outputs: The raw outputs.
            exact: Those in float.
            args: The model's arguments.
        """
        size = batch_size(args)
        self.images += size
        if is_logits(exact):
            self._logits = self._logits or Ratio()
            self._logits.add(outputs, exact)
        else:
            own = raw_noise.energies_of(exact, outputs)
            self._energies = raw_noise.summed(self._energies, own)
            self._names = self._names or raw_noise.names_of(simulation, exact)
        self._is_known = self._is_known and _are_alike(outputs, exact)
        if self._is_known:
            self._loss += float(self.float_model.output_loss.mean(outputs, exact, args)) * size

    @property
    def of_outputs(self) -> dict[str, float | None]:
        """Output → its relative error; empty where outputs are not of the same shapes."""
        if self._logits is not None:
            return {"output": self._logits.error}
        if self._energies is None:
            return {}
        kinds = raw_noise.kinds_of(self._names, self._energies)
        return {name: Ratio(*map(float, its.sum(1))).error for name, its in kinds.items()}

    @property
    def error(self) -> float | None:
        """The mean of the outputs' relative errors."""
        found = [error for error in self.of_outputs.values() if error is not None]
        return sum(found) / len(found) if found else None

    @property
    def loss(self) -> float | None:
        """The output loss, a mean over images; `None` where it cannot be told."""
        if not self._is_known or self.images == 0 or not math.isfinite(self._loss):
            return None
        return max(0.0, self._loss / self.images)


def energy(x: torch.Tensor) -> float:
    """The sum of squares, in float64."""
    return float(torch.linalg.vector_norm(x.detach().double())) ** 2


def decibels(error: float | None) -> float | None:
    """A relative error as SQNR in dB; `None` without any error, or where it is not known."""
    return None if not error else -10 * math.log10(error)


def _are_alike(outputs: Any, exact: Any) -> bool:
    """Whether both have tensors of the same shapes, so that they can be compared."""
    try:
        return all(a.shape == b.shape for a, b in floats(outputs, exact))
    except ValueError:  # one of them has more tensors
        return False
