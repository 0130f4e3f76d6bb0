"""The simulation as a graph with PT2E's quantized operators, in the patterns that XNNPACK takes.

What XNNPACK runs with an int8 kernel reads values that were dequantized for it alone, and gives
them to one quantization. So each reader has a dequantization of its own, and behind whatever only
moves quantized values they are quantized again, to the same integers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import fx, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operators)

from subbyte.graph.float_model import shared
from subbyte.graph.flow import Flow, Place
from subbyte.graph.layers import results
from subbyte.graph.operators import MATMUL, A, clamp_of, get_tensor, is_move
from subbyte.numerics.fake_quantize import (
    BiasQuantize,
    FakeQuantize,
    QuantizedWeight,
    Quantizer,
)
from subbyte.numerics.qparams import signed_integers
from subbyte.placement.insert import QUANTIZERS
from subbyte.placement.simulation import Simulation
from subbyte.targets.xnnpack.patterns import (
    JOINED,
    Q,
    fold_unquantized,
    is_dequantized,
    keep_ratios,
)
from subbyte.targets.xnnpack.plain import write_plainly

LOW, HIGH = -128, 127  # of int8
Grid = tuple[float, int, int, int, torch.dtype]  # scale, zero point, lowest, highest, type
VALUES = (torch.Tensor, list, tuple)


def lowered(simulation: Simulation) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of the model with quantized operators, and the layers that cannot have int8 kernels.

    A tensor without parameters is in float. The weights of layers without an int8 kernel are
    constants in float, of the values that their integers stand for.

    Args:
        simulation: The quantized model, with plain sums.
    """
    model = _copied(simulation.model)
    layers = {(x.region, x.node): x.name for x in simulation.placement.layers}
    floats, given = list[str](), dict[Place, Grid]()
    for name in simulation.region_names:
        region = cast("fx.GraphModule", model.get_submodule(name))
        source = simulation.region(name)
        write_plainly(region)
        _quantize_given(region, name, simulation.flow, given)
        parts: dict[fx.Node, Grid] = {}  # a tuple of tensors → their grid
        for node in list(region.graph.nodes):
            if node.op == "call_module":
                _write(region, node, source.get_submodule(str(node.target)))
            elif node.op == "call_function" and is_move(node) and not _pads_otherwise(node):
                _quantize_moved(region, node, parts)
        found = [*fold_unquantized(region), *keep_ratios(region)]
        floats += [layers.get((name, node), node) for node in found]
        leaves = enumerate(results(region.graph))
        given |= {(name, i): _grid(leaf) for i, leaf in leaves if is_dequantized(leaf)}
        _finish(region)
    return model, tuple(floats)


def _quantize_given(
    module: fx.GraphModule, name: str, flow: Flow, given: Mapping[Place, Grid]
) -> None:
    """Quantize again what other regions have quantized, so that each reader has its own.

    Args:
        module: The region.
        name: Its name.
        flow: What goes from region to region.
        given: Result of a region before → its grid.
    """
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for i, node in enumerate(inputs):
        grid = given.get(flow.links.get((name, i), ("", -1)))
        if grid is not None and node.users:
            _quantize_behind(module, node, grid)


def _copied(model: nn.Module) -> nn.Module:
    """A copy that shares the memory of `model`'s tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): shared(tensor) for tensor in tensors})


def _write(module: fx.GraphModule, node: fx.Node, quantizer: nn.Module) -> None:
    """Write a quantizer as operators."""
    if not _rounds(quantizer):
        node.replace_all_uses_with(cast("fx.Node", node.args[0]))
        module.graph.erase_node(node)
    elif isinstance(quantizer, BiasQuantize):
        source = cast("fx.Node", node.args[0])
        value = quantizer(get_tensor(module, source).detach())
        _replace_by_buffer(module, node, value)
    elif isinstance(quantizer, QuantizedWeight):
        _write_weight(module, node, quantizer)
    elif isinstance(quantizer, FakeQuantize):
        _write_activation(module, node, quantizer)


def _rounds(quantizer: nn.Module) -> bool:
    """Whether a module has the parameters that it needs to quantize what it is given."""
    operands = quantizer.operands if isinstance(quantizer, BiasQuantize) else (quantizer,)
    return all(isinstance(operand, Quantizer) and operand.has_params for operand in operands)


def _write_weight(module: fx.GraphModule, node: fx.Node, quantizer: QuantizedWeight) -> None:
    """A weight as int8 integers with zero point 0; in float, where they do not fit."""
    params, spec = quantizer.params, quantizer.spec
    assert params is not None
    signed = signed_integers(params, spec)
    if signed.min() < LOW or signed.max() > HIGH:
        values = quantizer(get_tensor(module, cast("fx.Node", node.args[0])).detach())
        _replace_by_buffer(module, node, values)
        return
    integers, axis = signed.to(torch.int8), spec.axis
    products = [user for user in node.users if user.target in MATMUL]
    for user in products:
        turned = integers.t().contiguous()
        _dequantized(module, user, node, turned, params.scale, None if axis is None else 1 - axis)
        with module.graph.inserting_before(user):
            new = module.graph.call_function(A.linear.default, user.args[:2])
        new.meta = dict(user.meta)
        user.replace_all_uses_with(new)
        module.graph.erase_node(user)
    for user in list(node.users):
        _dequantized(module, user, node, integers, params.scale, axis)
    module.graph.erase_node(node)


def _dequantized(
    module: fx.GraphModule,
    user: fx.Node,
    node: fx.Node,
    integers: torch.Tensor,
    scale: torch.Tensor,
    axis: int | None,
) -> None:
    """Let `user` read integers, dequantized for it alone, in the place of `node`.

    Args:
        module: The region.
        user: What reads a weight.
        node: The weight's quantizer.
        integers: int8.
        scale: (1,) or (channels,).
        axis: Of the channels; `None`: there is one scale.
    """
    graph, name = module.graph, str(node.target).rpartition(".")[2]
    stored = _buffer(module, user, f"{name}_integers", integers)
    args: tuple[Any, ...]
    if axis is None:
        operator, args = Q.dequantize_per_tensor.default, (stored, float(scale), 0)
    else:
        scales = _buffer(module, user, f"{name}_scales", scale.detach().float())
        zeros = torch.zeros(scale.numel(), dtype=torch.int64)
        points = _buffer(module, user, f"{name}_zero_points", zeros)
        operator, args = Q.dequantize_per_channel.default, (stored, scales, points, axis)
    with graph.inserting_before(user):
        new = graph.call_function(operator, (*args, LOW, HIGH, torch.int8))
    new.meta = dict(node.meta)
    user.replace_input_with(node, new)


def _write_activation(module: fx.GraphModule, node: fx.Node, quantizer: FakeQuantize) -> None:
    """An activation as int8; the ends of a narrower grid are those of a function of limits.

    Behind a convolution or a linear layer that function is a part of the kernel. Behind an addition
    or a product it follows on the integers, which gives the same: rounding keeps the order.
    """
    source, spec = cast("fx.Node", node.args[0]), quantizer.spec
    scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
    ends = ((spec.low - zero_point) * scale, (spec.high - zero_point) * scale)
    low, high = (max(0.0, ends[0]) if spec.rectified else ends[0]), ends[1]
    full = spec.high - spec.low == HIGH - LOW
    needed = not full or low > ends[0]
    limits, merged = clamp_of(source), None
    if limits is not None and len(source.users) == 1 and _overlap(limits, (low, high)):
        needed = needed or limits[0] > ends[0] or limits[1] < ends[1]
        low, high = max(low, limits[0]), min(high, limits[1])
        merged, source = source, cast("fx.Node", source.args[0])
    grid = (scale, zero_point - spec.low + LOW, LOW, HIGH, torch.int8)
    on_integers = source.target in JOINED and all(map(is_dequantized, source.all_input_nodes))
    with module.graph.inserting_before(node):
        if needed and on_integers:
            source = _pair(module, source, grid)
        if needed:
            source = module.graph.call_function(A.hardtanh.default, (source, low, high))
            source.meta = dict(node.meta)
        quantized = module.graph.call_function(Q.quantize_per_tensor.default, (source, *grid))
    quantized.meta = dict(node.meta)
    _dequantize_for_each(module, node, quantized, grid)
    module.graph.erase_node(node)
    if merged is not None:
        module.graph.erase_node(merged)


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return max(first[0], second[0]) < min(first[1], second[1])


def _pair(module: fx.GraphModule, source: fx.Node, grid: Grid) -> fx.Node:
    """A value quantized and dequantized, at the point of insertion."""
    quantized = module.graph.call_function(Q.quantize_per_tensor.default, (source, *grid))
    found = module.graph.call_function(Q.dequantize_per_tensor.default, (quantized, *grid))
    quantized.meta = found.meta = dict(source.meta)
    return found


def _dequantize_for_each(
    module: fx.GraphModule, node: fx.Node, quantized: fx.Node, grid: Grid
) -> None:
    """Let each reader of `node` read a dequantization of its own."""
    for user in [user for user in node.users if user is not quantized]:
        with module.graph.inserting_after(quantized):
            found = module.graph.call_function(Q.dequantize_per_tensor.default, (quantized, *grid))
        found.meta = dict(node.meta)
        user.replace_input_with(node, found)


def _quantize_moved(module: fx.GraphModule, node: fx.Node, parts: dict[fx.Node, Grid]) -> None:
    """Quantize again what only moves values that are quantized alike."""
    inputs = [x for x in node.all_input_nodes if isinstance(x.meta.get("val"), VALUES)]
    grids = {parts[x] if x in parts else _grid(x) if is_dequantized(x) else None for x in inputs}
    if len(grids) != 1 or None in grids:
        return
    grid = cast("Grid", grids.pop())
    if isinstance(node.meta.get("val"), list | tuple):
        parts[node] = grid
        return
    _quantize_behind(module, node, grid)


def _quantize_behind(module: fx.GraphModule, node: fx.Node, grid: Grid) -> None:
    """Let all that reads a value read it quantized, and dequantized for it alone."""
    with module.graph.inserting_after(node):
        quantized = module.graph.call_function(Q.quantize_per_tensor.default, (node, *grid))
    quantized.meta = dict(node.meta)
    _dequantize_for_each(module, node, quantized, grid)


def _grid(node: fx.Node) -> Grid:
    """The grid of a dequantized value."""
    return cast("Grid", tuple(node.args[1:]))


def _pads_otherwise(node: fx.Node) -> bool:
    """Whether a node pads with anything but zeros."""
    pads = node.target in (A.constant_pad_nd.default, A.pad.default)
    return pads and isinstance(node.args[-1], int | float) and node.args[-1] != 0


def _replace_by_buffer(module: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> None:
    name = f"{str(node.target).rpartition('.')[2]}_values"
    new = _buffer(module, node, name, value.detach())
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _buffer(module: fx.GraphModule, before: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, value.contiguous())
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)


def _finish(module: fx.GraphModule) -> None:
    if hasattr(module, QUANTIZERS):
        delattr(module, QUANTIZERS)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()
