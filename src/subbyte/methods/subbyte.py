"""Every layer rounded in closed form for what it really reads, then all scales tuned together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from subbyte.fitting.walk import Sampling, fit_layers
from subbyte.graph.batch import portions
from subbyte.graph.calibrate import choose_activations, choose_weights
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import State
from subbyte.joint.tune import Rates, lessons_of, tune
from subbyte.progress import Progress, Silent
from subbyte.validation import Checked


class Options(Checked):
    """What can be set.

    images: of the calibration, that are fitted to (the first ones). positions: rows taken of each,
    at least. steps, batch: of the tuning; mirror: with images mirrored as well. cache_memory: GB of
    values between layers that are kept in memory; beyond, in temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(1024, ge=1)
    positions: int = Field(16, ge=1)
    steps: int = Field(100, ge=0)
    batch: int = Field(32, ge=1)
    mirror: bool = True
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
    """Choose all ranges in the float network, fit layer by layer, then tune scales and biases."""
    del loss, resume
    progress = progress or Silent()
    choose_weights(captured, progress)
    choose_activations(captured, batches, progress, State.OFF)
    some = list(portions(batches, options.images, 32))
    lessons = lessons_of(captured, some, options.images, mirror=options.mirror)
    cache = int(options.cache_memory * 2**30)
    fit_layers(captured, some, cache, Sampling(options.positions), progress)
    if options.steps and lessons is not None:
        tune(captured, lessons, options.steps, options.batch, Rates(), progress)
