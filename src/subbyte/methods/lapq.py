"""All step sizes together, searched for the least loss of the network.

Nahshan et al. 2019, "Loss Aware Post-training Quantization".
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from subbyte.calibration.observe import choose, choose_activations, choose_weights, observe, rows
from subbyte.data.batches import ArgumentsOf
from subbyte.errors import SubbyteError
from subbyte.methods.common.output_loss import Targets, divergence, portions_of
from subbyte.methods.scale_search.network import Loss, Network, Portion, mean_loss
from subbyte.methods.scale_search.powell import powell
from subbyte.methods.scale_search.scale_vector import Search, Sizes
from subbyte.numerics import ranges
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.recipe import Choice, Named, choice
from subbyte.utils.progress import Progress, Silent
from subbyte.utils.validation import Checked

EXPONENTS = (2.0, 2.5, 3.0, 3.5, 4.0)


class Options(Checked):
    """Options of `lapq`.

    start: "lp" fits a parabola to the loss over p and takes the best p for all layers; a range
    rule's name, or {name: RULE, …}, takes that rule. search: "scale" moves both ends of a range
    alike, "clip" each for itself. images: the first so many are looked at. targets: "labels", the
    float model's "outputs", or "auto", labels where the batches have them. max_evaluations: of the
    loss, in Powell's search. seconds: that it may take (`None`: no limit). step: first width of a
    line search, in parts of a step size. tolerance: share of the loss below which a round is the
    last. cache_memory: GB of values in front of blocks that are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Named = "lp"
    search: Search = "scale"
    images: int = Field(512, ge=1)
    targets: Targets = "auto"
    max_evaluations: int = Field(1000, ge=0)
    seconds: float | None = Field(None, gt=0)
    step: float = Field(0.1, gt=0, le=1)
    tolerance: float = Field(0.001, ge=0)
    cache_memory: float = Field(4.0, ge=0)

    @field_validator("start")
    @classmethod
    def _is_a_rule(cls, value: Named) -> Named:
        ranges.check(*choice(value))
        return value


def apply(
    captured: Captured,
    batches: ArgumentsOf,
    options: Options,
    *,
    loss: Loss | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> None:
    """Start from each layer's own best range, then search all step sizes together.

    Raises:
        SubbyteError: Labels were asked for and there are none, or they do not fit the outputs.
    """
    del resume
    progress = progress or Silent()
    targets = options.targets
    if loss is None:
        if targets == "labels":
            raise SubbyteError(
                "targets is 'labels' and how this model is wrong by labels is not known: give "
                "targets: outputs"
            )
        targets = "outputs"
    portions, labelled = portions_of(captured, batches, options.images, targets)
    if loss is None or not labelled:
        loss = divergence
    if options.start == "lp":
        _start_by_exponent(captured, batches, portions, loss, progress)
    else:
        _start_by_rule(captured, batches, choice(options.start), progress)
    captured.set_state(State.QUANTIZE)
    with Sizes(captured, options.search) as sizes:
        search(captured, sizes, portions, loss, options, progress)


def search(
    captured: Captured,
    sizes: Sizes,
    portions: list[Portion],
    loss: Loss,
    options: Options,
    progress: Progress,
) -> float:
    """Powell's method as far as evaluations and time go; return the loss that was found.

    At first on a quarter of the images, which tell as well where to go as long as it is far.
    """
    started, left = time.monotonic(), options.max_evaluations
    for share, evaluations in ((4, left // 2), (1, left)):
        part = portions[: -(-len(portions) // share)]
        network = Network(captured, sizes, part, loss, int(options.cache_memory * 2**30))
        lines = powell(
            network.evaluate,
            network.best,
            network.value,
            step=options.step / (1 if share > 1 else 2),
            tolerance=options.tolerance,
        )
        limited = islice(lines, min(evaluations, left))
        for _ in progress.track(limited, "searching step sizes", min(evaluations, left)):
            left -= 1
            if options.seconds is not None and time.monotonic() - started > options.seconds:
                left = 0
                break
        network.settle()
    return network.value


def _start_by_rule(
    captured: Captured, batches: ArgumentsOf, rule: Choice, progress: Progress
) -> None:
    captured.tensors = [replace(tensor, rule=rule) for tensor in captured.tensors]
    choose_weights(captured, progress)
    choose_activations(captured, batches, progress, State.OFF)


def _start_by_exponent(
    captured: Captured,
    batches: ArgumentsOf,
    portions: list[Portion],
    loss: Loss,
    progress: Progress,
) -> None:
    """The ranges of least |Q(x) − x|^p with the p at which a parabola over the losses is lowest.

    Section 4.1 of the paper: the loss over p is smooth, and near its lowest point quadratic.
    """
    observe(captured, batches, progress, State.OFF)
    samples = {}
    for tensor, quantizer in captured.quantizers():
        if tensor.role == "weight":
            weight = captured.weight(tensor)
            samples[quantizer] = ranges.sample_of(rows(weight, quantizer.spec.axis))
        elif quantizer.statistics is not None:
            samples[quantizer] = quantizer.statistics.sample()
            quantizer.statistics = None
    captured.set_state(State.QUANTIZE)

    def start_with(p: float) -> float:
        for quantizer, sample in samples.items():
            choose(quantizer, Choice("lp", {"p": p}), sample)
        return mean_loss(captured, portions, loss)

    losses = {}
    for p in progress.track(EXPONENTS, "fitting the exponent"):
        losses[p] = start_with(p)
    best = _lowest(losses)
    if best not in losses and start_with(best) <= min(losses.values()):
        return
    start_with(min(losses, key=lambda p: losses[p]))


def _lowest(losses: dict[float, float]) -> float:
    """Where the parabola through p → loss (least squares) is lowest, within what was tried."""
    tried = min(losses, key=lambda p: losses[p])
    if not all(np.isfinite(list(losses.values()))):
        return tried
    curvature, slope, _ = np.polyfit(list(losses), list(losses.values()), 2)
    if curvature <= 0:
        return tried
    return float(np.clip(-slope / (2 * curvature), min(losses), max(losses)))
