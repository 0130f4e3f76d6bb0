"""Rounding to nearest on ranges chosen by a rule: no more than that, and no training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from subbyte.calibration.observe import calibrate
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress, Silent
from subbyte.utils.validation import Checked


class Options(Checked):
    """None: the recipe's `ranges` say all."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def apply(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    options: Options,
    *,
    loss: object = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> None:
    """Choose every grid's range by its rule; weights are rounded to the nearest level."""
    del options, loss, resume
    calibrate(captured, batches, progress or Silent())
