"""Learned rounding, block by block, then learned step sizes of activations.

Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction".
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
from subbyte.methods.reconstruction.settings import LearningOptions, Plan, plan_of
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress, Silent


class Options(LearningOptions):
    """activation_steps: of each block's step sizes; `steps` are those of its weights."""

    activation_steps: int = Field(1000, ge=0)


def plan_of_step_sizes(options: Options) -> Plan:
    """The second pass: step sizes of activations, by the loss |error|^2.4."""
    return replace(
        plan_of(options, "learning step sizes"),
        steps=options.activation_steps,
        rounding=False,
        step_sizes=True,
        activations=True,
        exponent=2.4,
    )


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
    del loss
    progress = progress or Silent()
    choose_weights(captured, progress)
    reconstruct(captured, batches, plan_of(options, "learning weights"), progress, resume)
    choose_activations(captured, batches, progress)
    reconstruct(captured, batches, plan_of_step_sizes(options), progress, resume)
    match_outputs(captured, batches, progress)
