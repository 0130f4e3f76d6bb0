"""Learned rounding, layer by layer.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from subbyte.graph.calibrate import choose_activations, choose_weights
from subbyte.graph.captured import Captured
from subbyte.progress import Progress, Silent
from subbyte.reconstruction.plan import Plan
from subbyte.reconstruction.walk import reconstruct
from subbyte.validation import Checked


class Options(Checked):
    """steps: of each layer. batch: images of a step.

    regularizer: strength with which rounding is pulled to up or down. cache_memory: GB of what
    layers read and give that are kept in memory; beyond, it goes to temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2000, ge=1)
    batch: int = Field(32, ge=1)
    regularizer: float = Field(0.01, ge=0)
    cache_memory: float = Field(4.0, ge=0)


def apply(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    options: Options,
    *,
    loss: object = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> None:
    """Learn each layer's rounding with activations in float, then choose their ranges."""
    del loss, resume
    progress = progress or Silent()
    choose_weights(captured, progress)
    reconstruct(
        captured,
        batches,
        Plan(options.steps, options.batch, regularizer=options.regularizer, layers=True),
        cache_memory=options.cache_memory,
        seed=captured.recipe.seed,
        progress=progress,
        description="learning layers",
    )
    choose_activations(captured, batches, progress)
