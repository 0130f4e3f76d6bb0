"""Statistics of activations, and the ranges of all grids by their rules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from subbyte.calibration.gradients import sensitivities
from subbyte.numerics import ranges
from subbyte.numerics.fake_quantize import FakeQuantize, State
from subbyte.placement.simulation import Captured
from subbyte.recipe import Choice
from subbyte.utils.progress import Progress


def calibrate(captured: Captured, batches: Iterable[tuple[Any, ...]], progress: Progress) -> None:
    """Choose the range of every grid, weights and activations, and leave all in state QUANTIZE.

    `batches`: the positional arguments of each batch.
    """
    choose_weights(captured, progress)
    choose_activations(captured, batches, progress)


def choose_weights(captured: Captured, progress: Progress) -> None:
    """Choose the ranges of all weights."""
    weights = list(captured.quantizers("weight"))
    for tensor, quantizer in progress.track(weights, "ranges of weights"):
        sample = ranges.sample_of(rows(captured.weight(tensor), quantizer.spec.axis))
        choose(quantizer, tensor.rule, sample)


def choose_activations(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
    weights: State = State.QUANTIZE,
) -> None:
    """Choose the ranges of all activations, and leave all grids in state QUANTIZE.

    Activations are observed in one streaming pass, with the weights on their grids already: their
    ranges suit what the layers will compute. `weights` OFF: in the float network. Rules that ask
    what errors cost are told from the gradients on some of the images.
    """
    observe(captured, batches, progress, weights)
    # A layer that never ran has no statistics; its grid stays at scale 1.
    seen = [(t, q) for t, q in captured.quantizers("activation") if q.statistics is not None]
    weighed = [quantizer for tensor, quantizer in seen if ranges.weighs(*tensor.rule)]
    costs = sensitivities(captured, weighed, batches, progress, weights) if weighed else {}
    for tensor, quantizer in seen:
        assert quantizer.statistics is not None
        sample = quantizer.statistics.sample()
        if quantizer in costs:
            sample = costs[quantizer].weigh(sample)
        choose(quantizer, tensor.rule, sample)
        quantizer.statistics = None
    captured.set_state(State.QUANTIZE)


@torch.no_grad()
def observe(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
    weights: State = State.QUANTIZE,
) -> None:
    """Run `batches` with weights in a state, each activation's statistics growing meanwhile."""
    if not any(True for _ in captured.quantizers("activation")):
        return
    captured.set_state(weights, "weight")
    captured.set_state(State.OBSERVE, "activation")
    with captured.holding_weights():
        for args in progress.track(batches, "observing activations"):
            captured(*args)


def rows(weight: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A weight as (channels, n), one row a channel of `axis`, or one row in all."""
    if axis is None:
        return weight.reshape(1, -1)
    return weight.movedim(axis, 0).reshape(weight.shape[axis], -1)


def sqnr_db(signal: float, noise: float) -> float:
    """Ratio of two energies in dB; infinite without noise, 0 without signal."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else 0.0


def choose(quantizer: FakeQuantize, rule: Choice, sample: ranges.Sample) -> None:
    """Give a quantizer the range that `rule` gives for `sample`."""
    spec = quantizer.spec
    scale, zero_point = ranges.choose(rule.name, rule.options, sample, spec)
    quantizer.scale.copy_(scale)
    quantizer.zero_point.copy_(zero_point)
    values = sample.values
    quantized = torch.fake_quantize_per_channel_affine(
        values, scale, zero_point, 0, spec.low, spec.high
    )
    counts = torch.ones(()) if sample.counts is None else sample.counts
    signal = (values.double().square() * counts).sum()
    noise = ((quantized - values).double().square() * counts).sum()
    quantizer.sqnr_db = sqnr_db(float(signal), float(noise))
