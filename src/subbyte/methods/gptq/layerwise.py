"""Layer by layer in the graph's order: integers fitted to what each layer reads when quantized."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.biased_layers import bias_name
from subbyte.graph.float_model import FloatModel, parameter_name
from subbyte.methods.common.activation_cache import of_regions_before
from subbyte.methods.common.context import Context
from subbyte.methods.common.resume import keep, restore
from subbyte.methods.common.samples import as_matrices, geometry_of
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.layer_samples import LayerSamples, SampledLayer, Sampling, collect_samples
from subbyte.methods.gptq.order import LayerOrder, Operand
from subbyte.methods.gptq.region_values import RegionValues
from subbyte.methods.gptq.row_weights import RowWeights, layers_row_weights
from subbyte.methods.gptq.solution import LayerSolution, solve_layer
from subbyte.methods.gptq.tensor_params import chosen_qparams, params_of_solution
from subbyte.numerics.qparams import QuantParams, dequantize
from subbyte.placement.placement import PlacedLayer, Placement, QuantizedTensor
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.allocator import give_back


@dataclass(frozen=True)
class LayerwiseSettings:
    """How layers are fitted.

    Attributes:
        cache_bytes: Memory for the values between layers; beyond, they lie in files.
        sampling: How many rows are taken of each layer.
    """

    cache_bytes: int
    sampling: Sampling


@dataclass(frozen=True)
class _Region:
    """A region whose layers are fitted one after the other.

    Attributes:
        simulation: The method's own, which takes what is found.
        order: Of its layers.
        values: What they read.
        sampling: How many rows are taken of each layer.
        row_weights: What a squared error in each row of a layer's outputs counts.
        generator: By which rows are drawn.
    """

    simulation: Simulation
    order: LayerOrder
    values: RegionValues
    sampling: Sampling
    row_weights: RowWeights
    generator: torch.Generator


def quantize_layers(
    float_model: FloatModel,
    placement: Placement,
    params: QuantParams,
    batches: Iterable[tuple[Any, ...]],
    settings: LayerwiseSettings,
    context: Context,
) -> QuantParams:
    """Fit every quantized weight to what its layer reads behind quantizers, layer by layer.

    Each layer's integers, scales and bias are those with which it gives, for its quantized input,
    what the float layer gives for the float one (layer-wise least squares with the rounding of
    Frantar et al. 2023, "GPTQ", and coordinate descent). A layer that gains nothing by it on images
    held out keeps what it has, but for its bias.

    Args:
        float_model: The model.
        placement: What is quantized.
        params: With parameters of all that is quantized.
        batches: The calibration images.
        settings: How it is done.
        context: The seed; progress; the folder to which what is found for each layer is written,
            and from which it is taken if it is there already.

    Returns:
        The parameters with those of the weights and the biases found; `blocks` reports how it went
        with each layer.
    """
    simulation = simulate(float_model, placement, params)
    store = Store(settings.cache_bytes, float_model.device)
    orders = {name: LayerOrder(float_model, placement, name) for name in float_model.region_names}
    weights = layers_row_weights(float_model, placement, orders, batches, context.progress)
    give_back()
    notes: list[dict[str, Any]] = []
    for order in orders.values():
        values = _values_of(simulation, order, store, batches)
        generator = torch.Generator().manual_seed(context.seed)
        region = _Region(simulation, order, values, settings.sampling, weights, generator)
        for i, layer in enumerate(context.progress.track(order.layers, "fitting layers")):
            key = f"fitting {order.region} {i}".replace(" ", "-")
            notes.append(_settle(region, layer, context.resume, key))
    return simulation.params.with_reported(blocks=notes)


def _values_of(
    simulation: Simulation,
    order: LayerOrder,
    store: Store,
    batches: Iterable[tuple[Any, ...]],
) -> RegionValues:
    """What a region reads in float, and behind the regions before it, which have their integers."""
    before = of_regions_before(
        simulation.float_model,
        simulation.placement,
        simulation.params,
        order.region,
        {"weight", "activation"},
    )
    return RegionValues(simulation, order, store, before, batches)


@torch.no_grad()
def _settle(region: _Region, layer: PlacedLayer, resume: Path | None, key: str) -> dict[str, Any]:
    """Give a layer what is kept of it or what is found now, go on to what follows, and note it."""
    simulation, order, values = region.simulation, region.order, region.values
    device = simulation.float_model.device
    kept = None if resume is None else restore(resume, key, device)
    branch = order.residual_branch(layer)
    order.settle(layer)
    fresh = values.fresh()
    if kept is None:
        started = time.perf_counter()
        sampled = _sampled(region, layer, branch)
        samples = collect_samples(sampled, values, fresh, region.sampling, region.generator)
        found, note = _solve(simulation, layer, sampled, samples)
        seconds = round(time.perf_counter() - started, 3)
        note = {"block": layer.name, "seconds": seconds, **note}
        if resume is not None:
            keep(resume, key, found, note, {"random": region.generator.get_state()})
    else:
        found, others, note = kept
        region.generator.set_state(others["random"])
        values.compute_exact(fresh)
    _take(simulation, found)
    values.advance(fresh)
    return note


def _sampled(region: _Region, layer: PlacedLayer, branch: Operand | None) -> SampledLayer:
    node = region.order.nodes[layer.node]
    weight = region.simulation.weight(_weight(region.simulation.placement, layer))
    geometry = geometry_of(node, weight)
    weights = region.row_weights.get((layer.region, layer.node))
    return SampledLayer(node, as_matrices(weight, geometry), geometry, branch, weights)


def _solve(
    simulation: Simulation, layer: PlacedLayer, sampled: SampledLayer, samples: LayerSamples
) -> tuple[QuantParams, dict[str, Any]]:
    """What is found for a layer, its weight's parameters and its bias, and how it went."""
    tensor = _weight(simulation.placement, layer)
    before = simulation.quantizer(tensor.key).params
    assert before is not None
    rounded = as_matrices(dequantize(before, tensor.spec), sampled.geometry)
    bias = bias_name(sampled.node)
    solution = None
    # Of a transposed convolution in groups the groups share scales, which the solver does not know.
    apart = tensor.channels in (1, sampled.matrices.shape[0] * sampled.matrices.shape[1])
    if apart and samples.train.count and samples.held_out.count:
        solution = solve_layer(
            samples.train,
            samples.held_out,
            sampled.matrices,
            rounded,
            lambda weights: chosen_qparams(tensor, weights),
            with_bias=bias is not None,
            one_scale=tensor.spec.axis is None,
        )
    found = QuantParams({tensor.key: before})
    if solution is not None:
        weight = simulation.weight(tensor)
        found = QuantParams(
            {tensor.key: params_of_solution(tensor, weight, solution, sampled.geometry)}
        )
    if bias is not None and samples.train.count:
        best = samples.train.bias(rounded) if solution is None else solution.bias
        assert best is not None
        found = found.with_biases({parameter_name(layer.region, bias): best.reshape(-1)})
    return _with_room(simulation, layer, tensor, found), _note(solution, apart)


def _with_room(
    simulation: Simulation, layer: PlacedLayer, tensor: QuantizedTensor, found: QuantParams
) -> QuantParams:
    """What is found for a layer, with scales at which its bias fits."""
    read = {key: simulation.quantizer(key).params for key in layer.activations}
    known = {key: params for key, params in read.items() if params is not None}
    roomy = with_room_for_biases(
        simulation.float_model, simulation.placement, found.with_tensors(known)
    )
    return QuantParams({tensor.key: roomy.tensors[tensor.key]}, found.biases)


def _note(solution: LayerSolution | None, apart: bool) -> dict[str, Any]:
    if solution is None:
        why = "nothing better than rounding was found" if apart else "its groups share scales"
        return {"fell_back": True, "why": why}
    return {"fell_back": False, "damping": solution.damping, "gain": round(solution.gain, 3)}


def _take(simulation: Simulation, found: QuantParams) -> None:
    for key, params in found.tensors.items():
        simulation.put(key, params)
    for name, value in found.biases.items():
        simulation.put_bias(name, value)


def _weight(placement: Placement, layer: PlacedLayer) -> QuantizedTensor:
    assert layer.weight is not None
    return placement.tensor(layer.weight)
