"""Learned rounding, block by block, then learned step sizes of activations.

Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction".
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
    """steps: of each block's weights. activation_steps: of its step sizes. batch: images of a step.

    regularizer: strength with which rounding is pulled to up or down. cache_memory: GB of what
    blocks read and give that are kept in memory; beyond, it goes to temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2000, ge=1)
    activation_steps: int = Field(1000, ge=0)
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
    """Learn each block's rounding with activations in float; then ranges, and their step sizes."""
    del loss, resume
    progress = progress or Silent()
    choose_weights(captured, progress)
    plans = {
        "learning weights": Plan(options.steps, options.batch, regularizer=options.regularizer),
        "learning step sizes": Plan(
            options.activation_steps,
            options.batch,
            rounding=False,
            step_sizes=True,
            activations=True,
            exponent=2.4,
        ),
    }
    for description, plan in plans.items():
        if plan.activations:
            choose_activations(captured, batches, progress)
        reconstruct(
            captured,
            batches,
            plan,
            cache_memory=options.cache_memory,
            seed=captured.recipe.seed,
            progress=progress,
            description=description,
        )
