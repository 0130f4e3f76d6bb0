"""Rounding to nearest, and biases that take back what this adds to a layer's outputs in the mean.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from subbyte.calibration.bias_correction import correct_biases, correct_outputs
from subbyte.calibration.observe import choose_activations, choose_weights
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress, Silent
from subbyte.utils.validation import Checked


class Options(Checked):
    """images: how many of the calibration images the means are taken over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(256, ge=1)


def apply(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    options: Options,
    *,
    loss: object = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> None:
    """Choose the weights' ranges and correct the biases, then the activations' and the outputs."""
    del loss, resume
    progress = progress or Silent()
    choose_weights(captured, progress)
    expected = correct_biases(captured, batches, options.images, progress)
    choose_activations(captured, batches, progress)
    correct_outputs(captured, expected, batches, options.images, progress)
