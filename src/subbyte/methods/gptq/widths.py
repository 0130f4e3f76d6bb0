"""Each layer's integers at several widths, as if it alone were quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from subbyte.calibration.biased_layers import bias_name
from subbyte.calibration.observe import channel_rows
from subbyte.graph.float_model import FloatModel, parameter_name
from subbyte.methods.common.activation_cache import of_regions_before
from subbyte.methods.common.context import Context
from subbyte.methods.common.samples import Geometry, as_matrices, geometry_of
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.layer_samples import LayerSamples, SampledLayer, collect_samples
from subbyte.methods.gptq.layerwise import LayerwiseSettings
from subbyte.methods.gptq.order import LayerOrder
from subbyte.methods.gptq.region_values import RegionValues
from subbyte.methods.gptq.row_weights import layers_row_weights
from subbyte.methods.gptq.solution import solve_layer
from subbyte.methods.gptq.tensor_params import chosen_qparams, params_of_solution
from subbyte.numerics import ranges
from subbyte.numerics.qparams import QuantParams, dequantize, quantize_weight
from subbyte.numerics.qspec import QSpec
from subbyte.placement.placement import Placement, QuantizedTensor
from subbyte.placement.simulation import float_weight, simulate


@dataclass(frozen=True)
class LayerWidths:
    """What was found for one layer.

    Attributes:
        tensor: Its weight.
        found: Bits → the weight's parameters and the layer's bias.
        residual: Bits → squared error of the layer's outputs over their energy, on samples held
            out.
    """

    tensor: QuantizedTensor
    found: Mapping[int, QuantParams]
    residual: Mapping[int, float]


@torch.no_grad()
def solve_widths(
    float_model: FloatModel,
    placement: Placement,
    params: QuantParams,
    batches: Iterable[tuple[Any, ...]],
    specs: Mapping[str, Mapping[int, QSpec]],
    settings: LayerwiseSettings,
    context: Context,
) -> Iterator[LayerWidths]:
    """Solve each layer's least squares once for each width, from samples taken once.

    A layer reads what the float network gives, behind the quantizers of activations. Its rows count
    what an error there costs, as where layers are fitted one after the other: ranges clip what
    hardly matters, and a layer that tried to make up for that would lose what does.

    Args:
        float_model: The model.
        placement: Where quantizers stand; of its weights only which there are.
        params: Those of activations.
        batches: The calibration images.
        specs: Key of a weight → bits → its integers.
        settings: How samples are taken.
        context: The seed and progress.
    """
    simulation = simulate(float_model, placement, params)
    store = Store(settings.cache_bytes, float_model.device)
    orders = {name: LayerOrder(float_model, placement, name) for name in float_model.region_names}
    weights = layers_row_weights(float_model, placement, orders, batches, context.progress)
    for name, order in orders.items():
        before = of_regions_before(float_model, placement, params, name, {"activation"})
        values = RegionValues(simulation, order, store, before, batches)
        generator = torch.Generator().manual_seed(context.seed)
        for layer in context.progress.track(order.layers, "solving layers at each width"):
            tensor = placement.tensor(str(layer.weight))
            order.settle(layer)
            fresh = values.fresh()
            node = order.nodes[layer.node]
            weight = float_weight(float_model, tensor)
            geometry = geometry_of(node, weight)
            counts = weights.get((name, layer.node))
            sampled = SampledLayer(node, as_matrices(weight, geometry), geometry, None, counts)
            samples = collect_samples(sampled, values, fresh, settings.sampling, generator)
            bias = bias_name(node)
            full = None if bias is None else parameter_name(layer.region, bias)
            yield _at_widths(tensor, weight, geometry, samples, full, specs.get(tensor.key, {}))
            values.advance(fresh)


def _at_widths(
    tensor: QuantizedTensor,
    weight: torch.Tensor,
    geometry: Geometry,
    samples: LayerSamples,
    bias: str | None,
    specs: Mapping[int, QSpec],
) -> LayerWidths:
    found, residual = dict[int, QuantParams](), dict[int, float]()
    for bits, spec in specs.items():
        own = replace(tensor, spec=spec)
        found[bits] = _solved(own, weight, geometry, samples, bias)
        residual[bits] = _residual(own, found[bits], geometry, samples, bias)
    return LayerWidths(tensor, found, residual)


def _solved(
    tensor: QuantizedTensor,
    weight: torch.Tensor,
    geometry: Geometry,
    samples: LayerSamples,
    bias: str | None,
) -> QuantParams:
    """The integers of a weight at one width, by least squares or, where that fails, rounded."""
    matrices = as_matrices(weight, geometry)
    sample = ranges.sample_of(channel_rows(weight, tensor.spec.axis))
    rounded = quantize_weight(
        weight, *ranges.choose(*tensor.rule, sample, tensor.spec), tensor.spec
    )
    solution = None
    # Of a transposed convolution in groups the groups share scales, which the solver does not know.
    apart = tensor.channels in (1, matrices.shape[0] * matrices.shape[1])
    as_rounded = as_matrices(dequantize(rounded, tensor.spec), geometry)
    if apart and samples.train.count and samples.held_out.count:
        solution = solve_layer(
            samples.train,
            samples.held_out,
            matrices,
            as_rounded,
            lambda weights: chosen_qparams(tensor, weights),
            with_bias=bias is not None,
            one_scale=tensor.spec.axis is None,
        )
    if solution is None:
        found = QuantParams({tensor.key: rounded})
        best = samples.train.bias(as_rounded) if samples.train.count else None
    else:
        found = QuantParams({tensor.key: params_of_solution(tensor, weight, solution, geometry)})
        best = solution.bias
    if bias is None or best is None:
        return found
    return found.with_biases({bias: best.reshape(-1)})


def _residual(
    tensor: QuantizedTensor,
    found: QuantParams,
    geometry: Geometry,
    samples: LayerSamples,
    bias: str | None,
) -> float:
    """Squared error over the outputs' energy about their mean."""
    if not samples.held_out.count:
        return 0.0
    weights = as_matrices(dequantize(found.tensors[tensor.key], tensor.spec), geometry)
    known = found.biases.get(bias) if bias is not None else None
    own = None if known is None else known.reshape(weights.shape[:2])
    error = float(samples.held_out.loss(weights, own).sum())
    energy = float(samples.held_out.loss(torch.zeros_like(weights), own).sum())
    return max(0.0, error) / max(energy, 1e-30)
