"""Statistics of activations, and the ranges of all grids by their rules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from subbyte.graph.captured import Captured
from subbyte.grid import ranges
from subbyte.grid.fake_quantize import FakeQuantize, State
from subbyte.progress import Progress


def calibrate(captured: Captured, batches: Iterable[tuple[Any, ...]], progress: Progress) -> None:
    """Choose the range of every grid, weights and activations, and leave all in state QUANTIZE.

    `batches`: the positional arguments of each batch. Activations are observed in one streaming
    pass, with the weights on their grids already: their ranges suit what the layers will compute.
    """
    weights = list(captured.quantizers("weight"))
    for tensor, quantizer in progress.track(weights, "ranges of weights"):
        sample = ranges.sample_of(rows(captured.weight(tensor), quantizer.spec.axis))
        _choose(quantizer, tensor.rule.name, tensor.rule.options, sample)
    observe(captured, batches, progress)
    for tensor, quantizer in captured.quantizers("activation"):
        if quantizer.statistics is None:
            continue  # the layer never ran; its grid stays at scale 1
        _choose(quantizer, tensor.rule.name, tensor.rule.options, quantizer.statistics.sample())
        quantizer.statistics = None
    captured.set_state(State.QUANTIZE)


@torch.no_grad()
def observe(captured: Captured, batches: Iterable[tuple[Any, ...]], progress: Progress) -> None:
    """Run `batches` with quantized weights, each activation's statistics growing meanwhile."""
    if not any(True for _ in captured.quantizers("activation")):
        return
    captured.set_state(State.QUANTIZE, "weight")
    captured.set_state(State.OBSERVE, "activation")
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


def _choose(
    quantizer: FakeQuantize, rule: str, options: dict[str, Any], sample: ranges.Sample
) -> None:
    spec = quantizer.spec
    scale, zero_point = ranges.choose(rule, options, sample, spec)
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
