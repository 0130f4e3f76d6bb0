"""Learned rounding, layer by layer.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from subbyte.calibration.bias_correction import match_outputs
from subbyte.calibration.observe import choose_activations, choose_weights
from subbyte.methods.reconstruction.blockwise import reconstruct
from subbyte.methods.reconstruction.settings import LearningOptions, plan_of
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress, Silent


class Options(LearningOptions):
    """Those that every method has that learns; `steps` are those of each layer."""


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
    del loss
    progress = progress or Silent()
    choose_weights(captured, progress)
    plan = replace(plan_of(options, "learning layers"), layers=True)
    reconstruct(captured, batches, plan, progress, resume)
    choose_activations(captured, batches, progress)
    match_outputs(captured, batches, progress)
