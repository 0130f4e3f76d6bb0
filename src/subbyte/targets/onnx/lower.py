"""Fake quantization → what the file holds. The only place that knows of Q/DQ."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx

from subbyte.graph.layers import results
from subbyte.graph.operators import (
    ADD,
    CONV,
    LINEAR,
    MUL,
    A,
    clamp_of,
    get_tensor,
    is_global_pool,
    is_move,
    is_relu,
    rank_of,
    tensor_inputs,
)
from subbyte.numerics.fake_quantize import BiasQuantize, FakeQuantize
from subbyte.numerics.qspec import along
from subbyte.placement.simulation import QUANTIZERS, Captured
from subbyte.targets.onnx.last_convolutions import Grids, write_last_convolutions
from subbyte.targets.onnx.operators import ONE_SCALE, OPS, ORT, OV, Style
from subbyte.targets.onnx.parts import split_linears
from subbyte.targets.onnx.products import write_products


def lower(captured: Captured, target: str | None = None, integers: bool = True) -> torch.nn.Module:
    """A copy of the model in which integers are integers.

    Weights and biases become int8 (uint8, where a grid of 8 bits has a zero point) and int32
    tensors with a dequantization; activations a quantization with clipping to the grid's levels and
    a dequantization. What an exporter's own decompositions would make runtimes stumble over is
    replaced too. `target`: the runtime that will read it; `None`: both. Without `integers` the
    quantizers are left out: the float model.
    """
    model = copy.deepcopy(captured.model)
    for name in captured.region_names:
        region = model.get_submodule(name)
        assert isinstance(region, fx.GraphModule)
        absent = {
            tensor.module
            for tensor in captured.tensors
            if tensor.region == name and not tensor.stands_for(target)
        }
        _lower_region(region, target, integers, absent, _given(model, captured, name))
    return model


def _given(model: torch.nn.Module, captured: Captured, region: str) -> Grids:
    """The inputs of a region that others, lowered already, give on a grid."""
    grids: Grids = {}
    placeholders = [n for n in _graph(model, region).nodes if n.op == "placeholder"]
    for i, node in enumerate(placeholders):
        source, number = captured.flow.links.get((region, i), (None, 0))
        if source is not None:
            leaf = results(_graph(model, source))[number]
            if isinstance(leaf, fx.Node) and leaf.target is OPS.qdq.default:
                grids[node] = tuple(leaf.args[1:3])
    return grids


def _graph(model: torch.nn.Module, region: str) -> fx.Graph:
    module = model.get_submodule(region)
    assert isinstance(module, fx.GraphModule)
    return module.graph


def _lower_region(
    module: fx.GraphModule, target: str | None, integers: bool, absent: set[str], given: Grids
) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_module":
            quantizer = module.get_submodule(str(node.target))
            if not integers or node.target in absent:
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
            elif isinstance(quantizer, BiasQuantize):
                _lower_bias(module, node, quantizer)
            elif isinstance(quantizer, FakeQuantize) and node.args[0].op == "get_attr":
                _lower_weight(module, node, quantizer)
            elif isinstance(quantizer, FakeQuantize):
                _lower_activation(module, node, quantizer, target)
        else:
            _lower_operator(module, node, given)
    split_linears(module)
    write_products(module, target)
    if target == ORT:
        _repeat_grids(module, given)
        write_last_convolutions(module, given)  # which then read a grid, or one that is given
    if hasattr(module, QUANTIZERS):
        delattr(module, QUANTIZERS)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()


def _lower_activation(
    module: fx.GraphModule, node: fx.Node, quantizer: FakeQuantize, target: str | None
) -> None:
    spec, source = quantizer.spec, node.args[0]
    # Signed grids are shifted to 0 …: with uint8 a runtime fuses the ReLU, with int8 it does not.
    scale, zero_point = float(quantizer.scale), int(quantizer.zero_point) - spec.low
    grid = (scale, zero_point, 0, spec.high - spec.low)
    source, low, high, highest = _clipped(module, source, grid)
    args = (source, scale, zero_point, low, high)
    products = [user for user in node.users if user.target in MUL]
    if target == OV and products and zero_point:
        with module.graph.inserting_before(node):
            factor = module.graph.call_function(OPS.qdq.default, (*args, Style.SHIFT, highest))
        factor.meta = dict(node.meta)
        for product in products:
            product.replace_input_with(node, factor)
    if node.users:
        style = _style(node, source, target, clips=(low, high) != (0, 255))
        _replace(module, node, OPS.qdq.default, (*args, style, highest))


def _clipped(
    module: fx.GraphModule, source: Any, grid: tuple[float, int, int, int]
) -> tuple[Any, int, int, fx.Node | None]:
    """What a grid reads past a ReLU, its lowest and highest level, and the highest by channel.

    grid: scale, zero point, lowest and highest level. Rounding keeps order, so that clipping levels
    is clipping values and rounding them.
    """
    scale, zero_point, low, high = grid

    def level(value: float) -> int:
        return min(max(low, _level(value, scale, zero_point)), high)

    if not isinstance(source, fx.Node) or not is_relu(source):
        return source, low, high, None
    limits = clamp_of(source)
    if limits is not None:
        return source.args[0], level(limits[0]), level(limits[1]), None
    lowest, highest = (get_tensor(module, end) for end in source.args[1:])  # type: ignore[arg-type]
    levels = highest.detach().cpu().double().apply_(level)
    bottom, top = level(float(lowest)), int(levels.max())
    if int(levels.min()) == top:
        return source.args[0], bottom, top, None
    shape = [1] * (source.meta["val"].dim() - levels.dim()) + list(levels.shape)
    tops = levels.reshape(shape).to(highest.device, torch.uint8)
    return source.args[0], bottom, top, _buffer(module, source, f"{source.name}_levels", tops)


def _style(node: fx.Node, source: Any, target: str | None, clips: bool) -> Style:
    """How to write the grid at `node`, whose values arise in `source`, for a runtime."""
    plain = Style.FLOATS if target == OV and clips else Style.INTEGERS
    if target == ORT or not isinstance(source, fx.Node) or source.target not in CONV:
        return plain
    if rank_of(source) == 4 and any(user.target in ADD for user in node.users):
        if target == OV and len(node.users) > 1:
            return plain
        # OpenVINO computes convolution and addition in one kernel and drops the rounding between
        # them, where nothing else stands there.
        return Style.LEAKY if target == OV else Style.POOL
    return plain


def _level(value: float, scale: float, zero_point: int) -> int:
    """The level of a value on a grid without ends; far ones, infinity too, are brought near."""
    return round(min(max(value / scale, -1e6), 1e6)) + zero_point


def _repeat_grids(module: fx.GraphModule, given: Grids) -> None:
    """Put a tensor on its grid again behind each operator that only moves its values.

    It changes no value, and ONNX Runtime moves integers only between a dequantization and a
    quantization.
    """
    grids = dict(given)
    for node in list(module.graph.nodes):
        if node.target is OPS.qdq.default:
            grids[node] = tuple(node.args[1:3])
        elif is_move(node) or node.target is OPS.flatten.default:
            found = {grids.get(source) for source in tensor_inputs(node)}
            grid = found.pop() if len(found) == 1 else None
            if grid is None:
                continue
            grids[node] = grid
            if isinstance(node.meta.get("val"), torch.Tensor):
                args = (node, *grid, 0, 255, Style.INTEGERS)
                with module.graph.inserting_after(node):
                    new = module.graph.call_function(OPS.qdq.default, args)
                new.meta = dict(node.meta)
                node.replace_all_uses_with(
                    new, delete_user_cb=lambda user, new=new: user is not new
                )
                grids[new] = grid


def _lower_weight(module: fx.GraphModule, node: fx.Node, quantizer: FakeQuantize) -> None:
    spec, source = quantizer.spec, node.args[0]
    assert isinstance(source, fx.Node)
    levels = quantizer.levels(get_tensor(module, source).detach())
    axis = ONE_SCALE if spec.axis is None else spec.axis
    scale = quantizer.scale.detach()
    scale = scale.reshape(()) if spec.axis is None else scale
    name = str(node.target).rpartition(".")[2]
    zero_point = None
    if spec.bits == 8 and not spec.symmetric:
        zeros = quantizer.zero_point.reshape(scale.shape)
        zero_point = _buffer(module, node, f"{name}_zero_point", zeros.to(torch.uint8))
        levels = (levels + along(zeros, levels, spec.axis)).to(torch.uint8)
    else:
        # The levels less their zero point fit into int8 below 8 bits, and integer kernels take
        # weights with zero point 0 only.
        levels = levels.to(torch.int8)
    if all(user.target in LINEAR for user in node.users):
        levels, axis = levels.t(), 1 - axis if axis >= 0 else axis
    q = _buffer(module, node, f"{name}_levels", levels)
    s = _buffer(module, node, f"{name}_scale", scale)
    _replace(module, node, OPS.dequantize.default, (q, s, zero_point, axis))


def _lower_bias(module: fx.GraphModule, node: fx.Node, quantizer: BiasQuantize) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    bias = get_tensor(module, source).detach()
    name = str(node.target).rpartition(".")[2]
    levels = quantizer.levels(bias).to(torch.int32)
    scale = quantizer.scale.detach().expand(bias.shape[0]).contiguous()
    q = _buffer(module, node, f"{name}_levels", levels)
    s = _buffer(module, node, f"{name}_scale", scale)
    _replace(module, node, OPS.dequantize.default, (q, s, None, 0))


def _lower_operator(module: fx.GraphModule, node: fx.Node, given: Grids) -> None:
    if is_global_pool(node):
        pooled = _replace(module, node, OPS.global_average_pool.default, (node.args[0],))
        keeps = node.target is not A.mean.dim or (len(node.args) > 2 and bool(node.args[2]))
        if not keeps:
            with module.graph.inserting_after(pooled):
                flat = module.graph.call_function(OPS.flatten.default, (pooled,))
            flat.meta = pooled.meta
            pooled.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    elif node.target in (A.view.default, A.reshape.default, A.flatten.using_ints):
        if _flattens(node):
            _replace(module, node, OPS.flatten.default, (node.args[0],))
    elif node.target in LINEAR and getattr(node.args[1], "target", None) is OPS.dequantize.default:
        bias = node.args[2] if len(node.args) > 2 else None
        _replace(module, node, OPS.linear.default, (*node.args[:2], bias))
    elif node.target in CONV | LINEAR:
        data, weight = node.args[:2]
        on_grid = isinstance(data, fx.Node) and (data in given or data.target is OPS.qdq.default)
        if on_grid and isinstance(weight, fx.Node) and weight.op == "get_attr":
            _keep_float_weight(module, node, data, weight)


def _keep_float_weight(module: fx.GraphModule, node: fx.Node, data: Any, weight: fx.Node) -> None:
    """Keep ONNX Runtime from quantizing a float weight behind an activation on a grid.

    Its WeightBiasQuantization does so to Conv and Gemm, but not if the bias is no constant, which
    a dequantized one is not: int32 holds all the digits that float32 has.
    """
    value = get_tensor(module, weight).detach()
    bias: Any = node.args[2] if len(node.args) > 2 else None
    if node.target in LINEAR:
        transposed = _buffer(module, node, f"{node.name}_weight", value.t())
        _replace(module, node, OPS.linear.default, (data, transposed, bias))
        return
    floats = torch.zeros(len(value)) if bias is None else get_tensor(module, bias).detach()
    scale = (floats.abs().max() / 2**30).clamp(min=2.0**-100)
    levels = (floats.double() / scale.double()).round().to(torch.int32)
    q = _buffer(module, node, f"{node.name}_bias_levels", levels)
    s = _buffer(module, node, f"{node.name}_bias_scale", scale)
    with module.graph.inserting_before(node):
        new = module.graph.call_function(OPS.dequantize.default, (q, s, None, ONE_SCALE))
    node.args = (data, weight, new, *node.args[3:])


def _flattens(node: fx.Node) -> bool:
    """Whether a reshape keeps the first dimension and makes one of all others."""
    before = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    after = node.meta.get("val")
    if not (isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)):
        return False
    return before.dim() >= 2 and after.dim() == 2 and str(before.shape[0]) == str(after.shape[0])


def _replace(module: fx.GraphModule, node: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    with module.graph.inserting_before(node):
        new = module.graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
    return new


def _buffer(module: fx.GraphModule, before: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    module.register_buffer(name, value.contiguous())
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)
