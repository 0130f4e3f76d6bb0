"""Evaluation images whose classes are settled once the model's outputs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from subbyte.data.classes import ClassOrder, class_order
from subbyte.data.dataset import Batches
from subbyte.errors import SubbyteError


@dataclass(frozen=True)
class Coverage:
    """Of how many of a model's classes there are evaluation images.

    Attributes:
        model: How many classes the model has.
        evaluated: Of how many of them there are images.
    """

    model: int
    evaluated: int

    @property
    def note(self) -> str | None:
        """What a reader of the figures must know: a sentence where classes are missing."""
        if self.evaluated == self.model:
            return None
        return f"the evaluation covers {self.evaluated} of the model's {self.model} classes"


@dataclass(frozen=True)
class Labelled:
    """Images to evaluate with their labels.

    Attributes:
        batches: The images.
        order: How the classes were numbered.
        coverage: Of how many classes there are images.
    """

    batches: Batches
    order: ClassOrder
    coverage: Coverage


@dataclass(frozen=True)
class Evaluation:
    """Images to evaluate, whose labels depend on the model.

    Attributes:
        batches: The images.
        folders: The class folder of each image.
        classes: All class folders, sorted.
        empty: Those that hold no images.
        given: A file with their order, or "imagenet".
        fixed: Their order where it is the data's own.
    """

    batches: Batches
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    empty: frozenset[str] = frozenset()
    given: Path | None = None
    fixed: ClassOrder | None = None

    def labelled(self, outputs: int, known: Sequence[str] | None) -> Labelled:
        """The images with their labels for a model with so many outputs, named `known` or not.

        Raises `SubbyteError` as `class_order` does.
        """
        order = self._order(outputs, known)
        labels = [order.numbers[folder] for folder in self.folders]
        coverage = Coverage(outputs, len(set(labels)))
        notes = [note for note in (order.note, coverage.note) if note]
        batches = replace(self.batches.labelled(labels), notes=(*self.batches.notes, *notes))
        return Labelled(batches, order, coverage)

    def _order(self, outputs: int, known: Sequence[str] | None) -> ClassOrder:
        """The classes of a model with so many outputs, which calls them `known` if it has names."""
        if self.fixed is None:
            return class_order(
                self.classes, outputs, known=known, given=self.given, empty=self.empty
            )
        if len(self.classes) > outputs:
            raise SubbyteError(
                f"the evaluation images have {len(self.classes)} classes, but the model has only "
                f"{outputs}: give a model with an output for each"
            )
        return self.fixed
