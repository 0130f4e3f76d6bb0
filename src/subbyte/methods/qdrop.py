"""Learned rounding and step sizes, block by block, with activations quantized at random.

Wei et al. 2022, "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training
Quantization".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from subbyte.calibration.bias_correction import match_outputs
from subbyte.calibration.observe import choose_activations, choose_weights
from subbyte.methods.reconstruction.blockwise import reconstruct
from subbyte.methods.reconstruction.settings import LearningOptions, plan_of
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress, Silent


class Options(LearningOptions):
    """drop: share of values that stay in float."""

    drop: float = Field(0.5, ge=0, le=1)


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
    del loss
    progress = progress or Silent()
    choose_weights(captured, progress)
    choose_activations(captured, batches, progress, State.OFF)
    plan = replace(
        plan_of(options, "learning blocks"), step_sizes=True, activations=True, drop=options.drop
    )
    reconstruct(captured, batches, plan, progress, resume)
    match_outputs(captured, batches, progress)
