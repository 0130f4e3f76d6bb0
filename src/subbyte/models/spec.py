"""What the rest of the package knows of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from subbyte.data.preprocessing import Preprocessing
from subbyte.detection import Outputs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """A float model and what belongs to it.

    Attributes:
        name: What results call it.
        module: In float32 and in evaluation mode.
        task: "classification" or "detection".
        preprocessing: What the weights were trained with.
        classes: The names of the outputs in their order, of a detector without the background;
            `None`: unknown.
        notes: What a reader of the numbers must know of the weights.
        outputs: Of a detector's raw network that is known: what it gives. Its preprocessing is then
            a `subbyte.detection.Preprocessing`.
    """

    name: str
    module: nn.Module
    task: str
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    outputs: Outputs | None = None
