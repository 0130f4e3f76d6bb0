"""Every layer rounded in closed form for what it really reads, then all scales tuned together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from subbyte.calibration.observe import choose_activations, choose_weights
from subbyte.graph.batch import portions
from subbyte.methods.finetune.parameters import Rates
from subbyte.methods.finetune.training_data import lessons_of
from subbyte.methods.finetune.tune import FACTORS, Outcome, Tuning, tune
from subbyte.methods.gptq.layerwise import Sampling, fit_layers, held_out
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.utils.allocator import give_back
from subbyte.utils.progress import Progress, Silent
from subbyte.utils.validation import Checked

AT_ONCE = 32  # images
STEPS = 120
PIXELS = 64_000_000
MULTIPLY_ADDS = 1e13  # forward, once
NO_ROWS = "images differ in size, or what the model gives is not one row an image"
FEWER = 1.5  # power of the share of STEPS, where large images get fewer, by which rates go down


class Options(Checked):
    """What can be set.

    images: of the calibration, that are fitted to (the first ones). positions: rows taken of each,
    at least. steps: of the tuning, of `batch` images each; `None`: 120, or as many as look at 64
    million pixels or as take 10¹³ multiply-adds forward, if these are fewer. integers: its rate for
    integers of 2 bits, in levels a step, twice that for every two bits more; 0: they stay. Where
    `None` gives fewer steps than 120, all rates are smaller. features: what the error of what
    blocks read counts in it at first. cache_memory: GB of values between layers that are kept in
    memory; beyond, in temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(1024, ge=1)
    positions: int = Field(16, ge=1)
    steps: int | None = Field(None, ge=0)
    batch: int = Field(32, ge=1)
    integers: float = Field(0.02, ge=0, le=1)
    features: float = Field(100.0, ge=0)
    cache_memory: float = Field(2.0, ge=0)


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
    del loss
    progress = progress or Silent()
    choose_weights(captured, progress)
    choose_activations(captured, batches, progress, State.OFF)
    give_back()
    some = list(portions(batches, options.images, AT_ONCE))
    lessons = lessons_of(captured, some, options.images, held_out)
    if lessons is not None:
        some = lessons.portions(AT_ONCE)  # so that images are in memory once
    cache = int(options.cache_memory * 2**30)
    fit_layers(captured, some, cache, Sampling(options.positions), progress, resume)
    give_back()
    if options.steps == 0:
        return
    if lessons is None:
        captured.facts.tuning = {"kept": False, "why": NO_ROWS}
        return
    steps, share = options.steps, 1.0
    if steps is None:
        steps = _steps(lessons.pixels, lessons.multiply_adds, options.batch)
        share = (steps / STEPS) ** FEWER
    rates = Rates(integers=options.integers * share).times(share)
    factors = FACTORS if share == 1 else FACTORS[1:]  # the first one is too much for few steps
    tuning = Tuning(steps, options.batch, rates, options.features, factors)
    captured.facts.tuning = _said(steps, tune(captured, lessons, tuning, progress))


def _said(steps: int, outcome: Outcome) -> dict[str, Any]:
    """How the tuning went, for the results."""
    refused = [{"rates": factor, "why": why} for factor, why in outcome.refused.items()]
    said: dict[str, Any] = {"steps": steps, "kept": outcome.kept, "rates": outcome.factor}
    if not outcome.kept:
        said["why"] = refused[-1]["why"]
    losses = {"loss_before": outcome.loss_before, "loss": outcome.loss}
    return {**said, "refused": refused, **losses}


def _steps(pixels: int, multiply_adds: float, batch: int) -> int:
    """Fewer for large images and for large networks, so that the time is no multiple."""
    looks = min(PIXELS / pixels, MULTIPLY_ADDS / max(1.0, multiply_adds))
    return max(1, min(STEPS, int(looks / batch)))
