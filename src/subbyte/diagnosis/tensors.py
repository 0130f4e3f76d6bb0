"""What quantized tensors look like: ranges by channel, histograms, what is clipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from subbyte.calibration import clipping
from subbyte.calibration.observe import channel_rows, weight_sqnr_db
from subbyte.diagnosis import result
from subbyte.diagnosis.errors import Ratio, decibels
from subbyte.numerics.fake_quantize import Clipping, FakeQuantize, QuantizedWeight
from subbyte.numerics.histogram import Histogram
from subbyte.placement.placement import QuantizedTensor
from subbyte.placement.simulation import Simulation

BINS = 64
Shares = Mapping[str, tuple[float | None, float | None]]
BAND = 128  # channels, or groups of neighbours, whose ranges are shown


@dataclass
class Seen:
    """What reached the quantizer of an activation."""

    histogram: Histogram = field(default_factory=Histogram)
    noise: Ratio = field(default_factory=Ratio)
    clipped: Clipping = field(default_factory=Clipping)


@contextmanager
def watching(simulation: Simulation, seen: Mapping[str, Seen]) -> Iterator[None]:
    """While it lasts, what reaches the quantizers of a simulation is counted, by key."""

    def look(own: Seen) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
            if args[0].numel() and bool(torch.isfinite(args[0]).all()):
                own.histogram.update(args[0])
                own.noise.add(given, args[0])

        return hook

    quantizers = [(seen[tensor.key], quantizer) for tensor, quantizer in simulation.activations()]
    with ExitStack() as stack:
        for own, quantizer in quantizers:
            quantizer.clipping = own.clipped
            stack.callback(quantizer.register_forward_hook(look(own)).remove)
        try:
            yield
        finally:
            for _, quantizer in quantizers:
                quantizer.clipping = None


def weight_of(simulation: Simulation, tensor: QuantizedTensor) -> result.QuantizedWeight:
    """A weight, its ranges and its grids by channel."""
    quantizer, spec = simulation.quantizer(tensor.key), tensor.spec
    assert isinstance(quantizer, QuantizedWeight)
    params, weight = quantizer.params, simulation.weight(tensor)
    assert params is not None
    rows = channel_rows(weight, 0 if spec.axis is None else spec.axis)
    zero = params.zero_point.double().cpu()
    scale = params.scale.double().cpu()
    low, high = (((end - zero) * scale).expand(len(rows)) for end in (spec.low, spec.high))
    sqnr = weight_sqnr_db(weight, params, spec)
    return result.QuantizedWeight(
        bits=spec.bits,
        symmetric=spec.symmetric,
        per_channel=spec.axis is not None,
        values=weight.numel(),
        sqnr_db=sqnr if np.isfinite(sqnr) else None,
        low=float(weight.min()),
        high=float(weight.max()),
        channels=result.Channels(
            count=len(rows),
            low=_joined(rows.amin(1), torch.amin),
            high=_joined(rows.amax(1), torch.amax),
            grid_low=_joined(low, torch.amin),
            grid_high=_joined(high, torch.amax),
        ),
    )


def activation_of(
    tensor: QuantizedTensor,
    quantizer: FakeQuantize,
    seen: Seen,
    clipped: Shares,
) -> result.QuantizedActivation:
    """An activation and what was seen of it.

    Args:
        tensor: The tensor.
        quantizer: Its quantizer.
        seen: What reached it.
        clipped: Key → the shares that it clips of evaluation and of calibration images.
    """
    spec, scale = tensor.spec, float(quantizer.scale)
    zero, its = int(quantizer.zero_point), seen.histogram
    ran = its.images > 0
    now, before = clipped.get(tensor.key, (clipping.share(seen.clipped), None))
    return result.QuantizedActivation(
        tensor=tensor.layer,
        bits=spec.bits,
        symmetric=spec.symmetric,
        scale=scale,
        zero_point=zero,
        grid_low=(spec.low - zero) * scale,
        grid_high=(spec.high - zero) * scale,
        steps=spec.high - spec.low + 1,
        sqnr_db=decibels(seen.noise.error),
        clipped=now,
        clipped_calibration=before,
        low=its.low if ran else None,
        high=its.high if ran else None,
        histogram=_binned(its) if ran else None,
        readers=tensor.readers,
    )


def _binned(seen: Histogram) -> result.Histogram:
    """The same in fewer bins, from the least to the greatest value."""
    sample = seen.sample()
    assert sample.counts is not None
    low, high = seen.low, seen.high
    if not low < high:
        return result.Histogram(low, high, (int(sample.counts.sum()), *[0] * (BINS - 1)))
    values = sample.values[0].double().clamp(low, high).numpy()
    counts, _ = np.histogram(values, BINS, (low, high), weights=sample.counts[0].double().numpy())
    return result.Histogram(low, high, tuple(int(count) for count in counts))


def _joined(values: torch.Tensor, join: object) -> tuple[float, ...]:
    """One value for each channel, or for each of `BAND` groups of neighbours."""
    groups = torch.tensor_split(values.detach().cpu(), min(BAND, len(values)))
    return tuple(float(join(group)) for group in groups)  # type: ignore[operator]
