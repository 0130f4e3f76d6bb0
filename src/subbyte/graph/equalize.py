"""Cross-layer equalization: the channels between two layers are scaled so that ranges are alike.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.graph.float_model import FloatModel, rewritten
from subbyte.graph.layers import own_layers
from subbyte.graph.operators import (
    CONV,
    LINEAR,
    MAX_POOL,
    POOL,
    A,
    add_constant,
    clamp_of,
    get_tensor,
    groups_of,
    is_global_pool,
    is_move,
    put_tensor,
    rank_of,
    weight_of,
)

ROUNDS = 1000
CONVERGED = 1e-3  # largest relative change of a factor in the last round
TINY = 1e-6  # a channel's range below this share of its layer's is none

COPIES = {
    A.dropout.default,
    A.contiguous.default,
    A.clone.default,
    A.alias.default,
    A.detach.default,
}
FLATTEN = {A.view.default, A.reshape.default, A.flatten.using_ints}
POOLS_ONE = {A.max_pool1d.default, A.avg_pool1d.default, A.adaptive_avg_pool1d.default}


@dataclass
class _Pair:
    """Two layers, of which the second alone reads what the first gives.

    Attributes:
        first: The layer that gives.
        second: The layer that reads.
        axis: The dimension of the tensor between them that the channels are along.
        clamps: The functions between them that have an upper limit.
        scale: By what each channel is divided, (channels,), float64.
    """

    first: fx.Node
    second: fx.Node
    axis: int
    clamps: list[fx.Node]
    scale: torch.Tensor


def equalized(float_model: FloatModel) -> FloatModel:
    """The same model with equalized weights; the one that is given is left as it is."""
    return rewritten(float_model, lambda _, region: equalize(region))


def equalize(module: fx.GraphModule) -> None:
    """Divide each channel between two layers by an s that makes their ranges alike, in place.

    The rows of the first weight and its bias are divided by s, the columns of the second one
    multiplied: s = √(r₁ r₂) / r₂ (equation 11), r being the largest magnitude of a row or column,
    over and over again until chains of layers are in balance. What stands between must let a
    positive factor pass: ReLU, pooling, padding with zeros, flattening. An upper limit, as of
    ReLU6, becomes one for each channel, so that the model computes what it did. Results with
    several readers, and weights that are used more than once, stay as they are.
    """
    pairs = _pairs(module)
    _balance(module, pairs)
    for pair in pairs:
        _scale_rows(module, pair)
        _scale_columns(module, pair)
        for clamp in pair.clamps:
            _limit_channels(module, clamp, pair)
    module.graph.lint()
    module.recompile()


def _pairs(module: fx.GraphModule) -> list[_Pair]:
    """All pairs of layers that can be equalized, in the graph's order."""
    layers = own_layers(module.graph, CONV | LINEAR)
    found = (_pair(module, node) for node in layers)
    return [pair for pair in found if pair is not None and pair.second in layers]


def _pair(module: fx.GraphModule, first: fx.Node) -> _Pair | None:
    """A layer and its only reader, the next layer, if a positive factor passes between them."""
    axis, node, clamps = _channel_axis(module, first, first), first, list[fx.Node]()
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if reader.target in CONV | LINEAR:
            if reader.args[0] is not node or axis != _channel_axis(module, reader, node):
                return None
            scale = torch.ones(len(weight_of(module, first)), dtype=torch.float64)
            return _Pair(first, reader, axis, clamps, scale)
        limits = clamp_of(reader)
        if limits is not None and limits[0] == 0:
            clamps += [reader] if limits[1] < math.inf else []
        elif not _passes(reader, node, axis):
            return None
        node = reader
    return None


def _channel_axis(module: fx.GraphModule, layer: fx.Node, tensor: fx.Node) -> int:
    """Which dimension of `tensor`, the input or result of a layer, its channels are along."""
    rank = rank_of(tensor)
    assert rank is not None
    return rank + 1 - weight_of(module, layer).dim()


def _passes(node: fx.Node, source: fx.Node, axis: int) -> bool:
    """Whether a positive factor of each channel of `source` passes a node.

    A flattening may join the dimensions behind the channels to them.
    """
    behind = source.meta["val"].dim() - 1 - axis
    if node.target in COPIES or node.target is A.leaky_relu.default:
        return True
    if is_global_pool(node):
        return axis == 1
    if node.target in POOL | MAX_POOL:
        return bool(behind == (1 if node.target in POOLS_ONE else 2))
    if node.target in (A.constant_pad_nd.default, A.pad.default):
        pads: Any = node.args[1]
        return is_move(node) and bool(len(pads) <= 2 * behind)
    return node.target in FLATTEN and _joins_behind(node, source, axis)


def _joins_behind(node: fx.Node, source: fx.Node, axis: int) -> bool:
    """Whether a reshape makes one dimension of `axis` and those behind it, and keeps the others."""
    before, after = source.meta["val"].shape, node.meta["val"].shape
    joined = [*before[axis:], *after[axis:]]
    if len(after) != axis + 1 or not all(isinstance(length, int) for length in joined):
        return False
    return [str(n) for n in before[:axis]] == [str(n) for n in after[:axis]]


def _balance(module: fx.GraphModule, pairs: list[_Pair]) -> None:
    """Find the scale of each pair; weights stay as they are."""
    layers = {layer for pair in pairs for layer in (pair.first, pair.second)}
    sizes = {layer: _magnitudes(module, layer) for layer in layers}
    for _ in range(ROUNDS):
        change = 0.0
        for pair in pairs:
            first, second = sizes[pair.first], sizes[pair.second]
            r1, r2 = first.amax(2).flatten(), _by_channel(second.amax(1), pair.scale).amax(1)
            alive = (r1 > TINY * r1.max()) & (r2 > TINY * r2.max())
            s = torch.where(alive, (r1 / r2).sqrt(), 1)
            first /= s.reshape(*first.shape[:2], 1)
            second *= _spread(s, second).reshape(len(second), 1, -1)
            pair.scale *= s
            change = max(change, float((s - 1).abs().max()))
        if change < CONVERGED:
            return


def _magnitudes(module: fx.GraphModule, layer: fx.Node) -> torch.Tensor:
    """The largest magnitude over all positions of a kernel, (groups, outputs, inputs of each)."""
    weight = weight_of(module, layer).detach().cpu().double().abs()
    groups = groups_of(layer)
    outputs, inputs = weight.shape[:2]
    largest = weight.reshape(outputs, inputs, -1).amax(2)
    return largest.reshape(groups, outputs // groups, inputs)


def _by_channel(inputs: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """A number for each input of a layer as (channels, those that come from one)."""
    return inputs.reshape(len(channels), -1)


def _spread(scale: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """A number for each channel as one for each input of a layer."""
    inputs = magnitudes.shape[0] * magnitudes.shape[2]
    return scale.repeat_interleave(inputs // len(scale))


def _scale_rows(module: fx.GraphModule, pair: _Pair) -> None:
    for node in pair.first.args[1:3]:
        if isinstance(node, fx.Node):
            value = get_tensor(module, node)
            scale = pair.scale.to(value.device).reshape(-1, *[1] * (value.dim() - 1))
            put_tensor(module, str(node.target), (value.double() / scale).to(value.dtype))


def _scale_columns(module: fx.GraphModule, pair: _Pair) -> None:
    weight, sizes = weight_of(module, pair.second), _magnitudes(module, pair.second)
    groups = len(sizes)
    scale = _spread(pair.scale, sizes).reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    by_group = weight.double().reshape(groups, -1, *weight.shape[1:])
    scaled = by_group * scale.to(weight.device)
    node: Any = pair.second.args[1]
    put_tensor(module, str(node.target), scaled.flatten(0, 1).to(weight.dtype))


def _limit_channels(module: fx.GraphModule, clamp: fx.Node, pair: _Pair) -> None:
    """Divide the upper limit of a ReLU6 or the like by each channel's scale."""
    limits, value = clamp_of(clamp), clamp.meta["val"]
    assert limits is not None
    scale = pair.scale.repeat_interleave(value.shape[pair.axis] // len(pair.scale))
    device = weight_of(module, pair.first).device
    high = (limits[1] / scale).reshape(-1, *[1] * (value.dim() - 1 - pair.axis))
    high, low = (end.to(device, value.dtype) for end in (high, torch.zeros(())))
    ends = [
        add_constant(module, clamp, f"{clamp.name}_{name}", end)
        for name, end in (("low", low), ("high", high))
    ]
    clamp.target = A.clamp.Tensor
    clamp.args, clamp.kwargs = (clamp.args[0], *ends), {}
