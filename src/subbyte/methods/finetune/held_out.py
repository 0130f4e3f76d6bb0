"""The images that judge a tuning, and what the float model gives for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte.graph.float_model import FloatModel
from subbyte.methods.finetune.training_data import TuningData
from subbyte.placement.simulation import Simulation

IMAGES_AT_ONCE = 32
KEPT = 2**27  # bytes, of the float model's outputs


class HeldOut:
    """Images held out, which judge any number of students."""

    def __init__(self, float_model: FloatModel, data: TuningData) -> None:
        self._float_model, self._data = float_model, data
        self._kept: dict[int, Any] = {}  # the float model's outputs, by the first image
        self._room = KEPT

    @torch.no_grad()
    def losses(self, student: Simulation) -> torch.Tensor:
        """The loss of each of the images."""
        losses, loss = [torch.zeros(0)], self._float_model.output_loss.distances
        for first in range(0, len(self._data.held_out), IMAGES_AT_ONCE):
            chosen = self._data.held_out[first : first + IMAGES_AT_ONCE]
            args = tuple(self._data.images(chosen))
            losses.append(loss(student.raw(*args), self._targets(first, args), args).cpu())
        return torch.cat(losses)

    def _targets(self, first: int, args: tuple[Any, ...]) -> Any:
        if first in self._kept:
            return self._kept[first]
        targets = self._float_model.raw(*args)
        self._room -= sum(
            x.nbytes for x in pytree.tree_leaves(targets) if isinstance(x, torch.Tensor)
        )
        if self._room >= 0:
            self._kept[first] = targets
        return targets
