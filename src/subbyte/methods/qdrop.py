"""Learned rounding and step sizes, block by block, with activations quantized at random.

Wei et al. 2022, "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training
Quantization".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from subbyte.graph.calibrate import choose_activations, choose_weights
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import State
from subbyte.progress import Progress, Silent
from subbyte.reconstruction.plan import Plan
from subbyte.reconstruction.walk import reconstruct
from subbyte.validation import Checked


class Options(Checked):
    """steps: of each block. batch: images of a step. drop: share of values that stay in float.

    regularizer: strength with which rounding is pulled to up or down. cache_memory: GB of what
    blocks read and give that are kept in memory; beyond, it goes to temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2000, ge=1)
    batch: int = Field(32, ge=1)
    drop: float = Field(0.5, ge=0, le=1)
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
    """Choose all ranges in the float network, then learn rounding and step sizes of each block."""
    del loss, resume
    progress = progress or Silent()
    choose_weights(captured, progress)
    choose_activations(captured, batches, progress, State.OFF)
    plan = Plan(
        steps=options.steps,
        batch=options.batch,
        step_sizes=True,
        activations=True,
        drop=options.drop,
        regularizer=options.regularizer,
    )
    reconstruct(
        captured,
        batches,
        plan,
        cache_memory=options.cache_memory,
        seed=captured.recipe.seed,
        progress=progress,
        description="learning blocks",
    )
