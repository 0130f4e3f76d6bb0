"""What the rest of the package knows of a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from subbyte.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class ModelSpec:
    """A float model and what belongs to it.

    `module` is in float32 and in eval mode; `task` is "classification" or "detection";
    `preprocessing` is what the weights were trained with, `classes` the names of the outputs in
    their order, of a detector without the background, `regions` the submodules to quantize
    (`None`: unknown, or a detector's own, unknown, the whole model).
    """

    name: str
    module: nn.Module
    task: str
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None
    regions: tuple[str, ...] | None = None
