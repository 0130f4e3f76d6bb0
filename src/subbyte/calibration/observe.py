"""What calibration images show of each activation, and the ranges of all tensors by their rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.gradients import value_gradients
from subbyte.calibration.statistics import ranges_by_statistics
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.numerics import ranges
from subbyte.numerics.histogram import Histogram
from subbyte.numerics.qparams import (
    QuantParams,
    TensorQParams,
    dequantize,
    quantize_weight,
    sqnr_db,
)
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.rounding import fake_quantize
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation, float_weight
from subbyte.recipe import Choice
from subbyte.utils.progress import Progress

CalibrationBatches = Iterable[tuple[Any, ...]]  # the positional arguments of each
SampleOfKey = dict[str, ranges.Sample]  # what was seen of each activation, by key


def weight_ranges(
    float_model: FloatModel, placement: Placement, progress: Progress
) -> dict[str, TensorQParams]:
    """The parameters of all weights by their range rules, rounded to nearest.

    Args:
        float_model: The model.
        placement: What is quantized.
        progress: Shows how far it is.

    Returns:
        Key → parameters, the integers among them.
    """
    found = {}
    weights = list(placement.of_role("weight"))
    for tensor in progress.track(weights, "ranges of weights"):
        weight = float_weight(float_model, tensor)
        sample = ranges.sample_of(channel_rows(weight, tensor.spec.axis))
        scale, zero_point = ranges.choose(*tensor.rule, sample, tensor.spec)
        found[tensor.key] = quantize_weight(weight, scale, zero_point, tensor.spec)
    return found


def activation_ranges(
    simulation: Simulation, batches: CalibrationBatches, progress: Progress
) -> tuple[dict[str, TensorQParams], SampleOfKey]:
    """The parameters of all activations by their range rules, and what these were chosen by.

    Those of quantized weights beside which a bias does not fit are among them, with another scale.

    Activations are observed in one pass. Rules that ask what an error costs take that from the
    gradients on some of the images. A layer that never ran has no sample, and the scale 1.

    Args:
        simulation: Weights may be quantized, so that ranges suit what layers will compute;
            activations are in float.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    seen = observe(simulation, batches, progress)
    by_value = [
        tensor.key
        for tensor in simulation.placement.of_role("activation")
        if tensor.key in seen and ranges.weighs(*tensor.rule)
    ]
    costs = {}
    if by_value:
        extremes = {key: (seen[key].low, seen[key].high) for key in by_value}
        costs = value_gradients(simulation, extremes, batches, progress)
    samples = {}
    for key, histogram in seen.items():
        sample = histogram.sample()
        samples[key] = costs[key].weigh(sample) if key in costs else sample
    found = ranges_of(simulation, samples)
    placement = simulation.placement
    by_grid = ranges_by_statistics(simulation.float_model, placement, batches, progress)
    for key, chosen_by in by_grid.items():
        device = simulation.quantizer(key).scale.device
        scale, zero_point = chosen_by.scale.to(device), chosen_by.zero_point.to(device)
        spec = placement.tensor(key).spec
        noise = sample_sqnr_db(samples[key], scale, zero_point, spec) if key in samples else None
        found[key] = TensorQParams(scale, zero_point, None, noise)
    known = {tensor.key: q.params for tensor, q in simulation.weights() if q.params is not None}
    params = QuantParams({**known, **found}, simulation.params.biases)
    roomy = with_room_for_biases(simulation.float_model, placement, params)
    changed = {key: new for key, new in roomy.tensors.items() if new is not params.tensors[key]}
    return {**found, **changed}, samples


def ranges_of(
    simulation: Simulation, samples: SampleOfKey, rule: Choice | None = None
) -> dict[str, TensorQParams]:
    """The parameters of all activations for what was seen of them, by a rule or each by its own.

    Args:
        simulation: Its activations are given parameters.
        samples: Key → what was seen. An activation that is missing never ran, and gets the scale 1.
        rule: The range rule for all of them; `None`: each one's own.
    """
    found = {}
    for tensor, quantizer in simulation.activations():
        if tensor.key in samples:
            found[tensor.key] = chosen(tensor.spec, rule or tensor.rule, samples[tensor.key])
        else:
            device = quantizer.scale.device
            zero = torch.zeros(1, dtype=torch.int32, device=device)
            found[tensor.key] = TensorQParams(torch.ones(1, device=device), zero)
    return found


def chosen(spec: QSpec, rule: Choice, sample: ranges.Sample) -> TensorQParams:
    """The parameters that a range rule gives for what was seen of an activation.

    Args:
        spec: The integers that its values become.
        rule: The range rule.
        sample: What was seen of it.
    """
    return with_range(spec, *ranges.choose(rule.name, rule.options, sample, spec), sample)


def with_range(
    spec: QSpec, scale: torch.Tensor, zero_point: torch.Tensor, sample: ranges.Sample
) -> TensorQParams:
    """The parameters of an activation, with its SQNR.

    Args:
        spec: The integers that its values become.
        scale: What one step is worth.
        zero_point: The integer of 0.
        sample: What was seen of it.
    """
    return TensorQParams(scale, zero_point, None, sample_sqnr_db(sample, scale, zero_point, spec))


@torch.no_grad()
def observe(
    simulation: Simulation, batches: CalibrationBatches, progress: Progress
) -> dict[str, Histogram]:
    """Run the batches and count the values of each quantized activation.

    Args:
        simulation: Weights may be quantized; activations are in float.
        batches: The calibration images.
        progress: Shows how far it is.

    Returns:
        Key → histogram, of each activation that ran.

    Raises:
        SubbyteError: An activation holds NaN or infinity.
    """
    seen: dict[str, Histogram] = {}
    if not any(True for _ in simulation.activations()):
        return seen
    with watched(simulation, lambda key, layer, x: _add(seen, key, layer, x)):
        for args in progress.track(batches, "observing activations"):
            simulation(*args)
    return seen


def _add(seen: dict[str, Histogram], key: str, layer: str, x: torch.Tensor) -> None:
    if x.numel() == 0:
        return
    try:
        seen.setdefault(key, Histogram()).update(x.detach())
    except ValueError:
        raise SubbyteError(
            f"the activations at layer '{layer}' hold NaN or infinity: "
            "check the calibration images and the model's weights"
        ) from None


@contextmanager
def watched(simulation: Simulation, show: Any) -> Iterator[None]:
    """While it lasts, `show(key, layer, x)` is called with all that reaches an activation."""

    def hook(key: str, layer: str) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            show(key, layer, args[0])

        return before

    with ExitStack() as stack:
        for tensor, quantizer in simulation.activations():
            handle = quantizer.register_forward_pre_hook(hook(tensor.key, tensor.layer))
            stack.callback(handle.remove)
        yield


def channel_rows(weight: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A weight as (channels, n), one row a channel of `axis`, or one row in all."""
    if axis is None:
        return weight.reshape(1, -1)
    return weight.movedim(axis, 0).reshape(weight.shape[axis], -1)


def sample_sqnr_db(
    sample: ranges.Sample, scale: torch.Tensor, zero_point: torch.Tensor, spec: QSpec
) -> float:
    """Energy of what was seen over that of its quantization error, in dB.

    Args:
        sample: The values, (1, n), and how often each occurs.
        scale: float32, (1,).
        zero_point: int32, (1,).
        spec: The integers that the values become.
    """
    values = sample.values
    device = values.device
    quantized = fake_quantize(values, scale.to(device), zero_point.to(device), spec)
    counts = torch.ones(()) if sample.counts is None else sample.counts
    signal = (values.double().square() * counts).sum()
    noise = ((quantized - values).double().square() * counts).sum()
    return sqnr_db(float(signal), float(noise))


def with_sqnr(
    placement: Placement, params: QuantParams, samples: Mapping[str, ranges.Sample]
) -> QuantParams:
    """The same parameters; the SQNR of each activation is that of its scale as it is now.

    Args:
        placement: What is quantized.
        params: With parameters of every activation in `samples`.
        samples: Key → what was seen of an activation.
    """
    found = {}
    for key, sample in samples.items():
        now = params.tensors[key]
        value = sample_sqnr_db(sample, now.scale, now.zero_point, placement.tensor(key).spec)
        found[key] = replace(now, sqnr_db=value)
    return params.with_tensors(found)


def weight_sqnr_db(weight: torch.Tensor, params: TensorQParams, spec: QSpec) -> float:
    """Energy of a float weight over that of its quantization error, in dB.

    Args:
        weight: The float weight.
        params: Scale, zero point and integers, in the weight's shape.
        spec: The integers' specification.
    """
    signal = weight.double()
    noise = dequantize(params, spec).double() - signal
    return sqnr_db(float(signal.square().sum()), float(noise.square().sum()))
