"""What a network learns from at each step: images, and what the float network makes of them.

It is the same in every try, so that later ones need not run the float network again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte.graph.batch import batch_size
from subbyte.methods.finetune.features import energies_of, recorded
from subbyte.methods.finetune.training_data import TuningData
from subbyte.placement.simulation import Simulation

KEPT = 2**27  # bytes, of the first steps
WEIGHED = 32  # images whose energy says what that of an image is


@dataclass(frozen=True)
class StepPart:
    """Some of a step's images.

    Attributes:
        args: The model's arguments.
        targets: The float network's outputs.
        features: What its blocks read.
        energies: Of each of the features.
        share: Of the step's images.
        energy: Of the outputs, in that of as many usual images; 1 where the loss knows none.
    """

    args: list[Any]
    targets: Any
    features: list[torch.Tensor]
    energies: list[torch.Tensor]
    share: float
    energy: float

    @property
    def size(self) -> int:
        """In bytes."""
        leaves = pytree.tree_leaves((self.args, self.targets, self.features))
        return sum(x.nbytes for x in leaves if isinstance(x, torch.Tensor))


class TrainingSteps:
    """All steps, which any number of students take from the first one on.

    Attributes:
        features: The keys of what blocks read.
    """

    def __init__(
        self,
        teacher: Simulation,
        features: Sequence[str],
        data: TuningData,
        batch: int,
        at_once: int,
        seed: int,
    ) -> None:
        """Prepare them.

        Args:
            teacher: The network, in which nothing is quantized.
            features: The keys of what blocks read.
            data: The images.
            batch: Images in a step.
            at_once: Images in one part of a step, at most.
            seed: Of what is drawn.
        """
        self.features = features
        self._teacher, self._data, self._at_once = teacher, data, at_once
        self._generator = torch.Generator().manual_seed(seed)
        self._batches = _batches(data.learned, batch, self._generator)
        self._begun: list[tuple[torch.Tensor, torch.Tensor]] = []  # images, and what draws began at
        self._kept: dict[int, list[StepPart]] = {}
        self._room = KEPT
        self._usual = self._usual_energy()

    def at(self, step: int) -> Iterator[StepPart]:
        """The parts of a step, one after the other; the first student takes steps in order."""
        if step in self._kept:
            yield from self._kept[step]
            return
        if step == len(self._begun):
            self._begun.append((next(self._batches), self._generator.get_state()))
        chosen, state = self._begun[step]
        generator, given = torch.Generator(), []
        generator.set_state(state)
        for part in torch.split(chosen, self._at_once):
            made = self._part(self._data.varied(part, generator), len(part) / len(chosen))
            self._room -= made.size
            if self._room >= 0:
                given.append(made)
            yield made
        if self._room >= 0:
            self._kept[step] = given
        if step == len(self._begun) - 1:
            self._generator.set_state(generator.get_state())

    @torch.no_grad()
    def _part(self, args: list[Any], share: float) -> StepPart:
        with recorded(self._teacher, self.features) as expected:
            targets = self._teacher.raw(*args)
        energy = self._energy(targets, args) / self._usual
        return StepPart(args, targets, expected, energies_of(expected), share, energy)

    def _energy(self, targets: Any, args: list[Any]) -> float:
        """The mean energy of an image's outputs; 1 where the loss knows none."""
        energy = self._teacher.float_model.output_loss.energy
        if energy is None:
            return 1.0
        return float(energy(targets, tuple(args))) / batch_size(tuple(args))

    @torch.no_grad()
    def _usual_energy(self) -> float:
        """That of an image.

        An image in which a detector finds next to nothing would count as much as any other if the
        errors in it were compared with what is found in it.
        """
        if self._teacher.float_model.output_loss.energy is None:
            return 1.0
        images, total = self._data.learned[:WEIGHED], 0.0
        for part in torch.split(images, self._at_once):
            args = self._data.images(part)
            total += self._energy(self._teacher.raw(*args), args) * len(part)
        return max(total / len(images), 1e-12)


def _batches(images: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Without end, so many of the images each, all of them in every round but for a rest."""
    size = min(size, len(images))
    while True:
        order = images[torch.randperm(len(images), generator=generator)]
        yield from (part for part in torch.split(order, size) if len(part) == size)
