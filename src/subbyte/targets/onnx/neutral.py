"""The simulation as a graph of operators that all targets' files begin with.

The only place that reads quantizers: a file's integers are computed here, once.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.operators import LINEAR, A, get_tensor, is_global_pool
from subbyte.numerics.fake_quantize import BiasQuantize, FakeQuantize
from subbyte.numerics.qspec import along
from subbyte.placement.simulation import QUANTIZERS, Captured
from subbyte.targets.onnx.operators import EVERY, ONE_SCALE, OPS


def neutral(captured: Captured, integers: bool = True) -> nn.Module:
    """A copy of the model in which integers are integers, for whichever target.

    Weights and biases become int8 (uint8, where a grid of 8 bits has a zero point) and int32
    tensors with a dequantization; activations our own operator for their quantization and
    dequantization, which says for which runtime alone it is there. What an exporter's own
    decompositions would make runtimes stumble over is replaced too. Without `integers` the
    quantizers are left out: the float model.
    """
    model = _copied(captured.model)
    runtimes = {
        (tensor.region, tensor.module): tensor.runtime or EVERY for tensor in captured.tensors
    }
    for name in captured.region_names:
        region = model.get_submodule(name)
        assert isinstance(region, fx.GraphModule)
        for node in list(region.graph.nodes):
            if node.op != "call_module":
                continue
            if integers:
                runtime = runtimes.get((name, str(node.target)), EVERY)
                _write_quantizer(region, node, runtime)
            else:
                node.replace_all_uses_with(node.args[0])
                region.graph.erase_node(node)
        _finish(region)
    return model


def _copied(model: nn.Module) -> nn.Module:
    """A copy that holds the same numbers as `model`, and not others of their own."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        same = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = same
    for buffer in model.buffers():
        memo.setdefault(id(buffer), buffer.detach())
    return copy.deepcopy(model, memo)


def _write_quantizer(module: fx.GraphModule, node: fx.Node, runtime: str) -> None:
    quantizer, source = module.get_submodule(str(node.target)), node.args[0]
    assert isinstance(source, fx.Node)
    if isinstance(quantizer, BiasQuantize):
        _write_bias(module, node, quantizer)
    elif isinstance(quantizer, FakeQuantize) and source.op == "get_attr":
        _write_weight(module, node, quantizer)
    elif isinstance(quantizer, FakeQuantize):
        # Signed grids are shifted to 0 …: with uint8 a runtime fuses the ReLU, with int8 it does
        # not.
        spec = quantizer.spec
        zero_point = int(quantizer.zero_point) - spec.low
        args = (source, float(quantizer.scale), zero_point, 0, spec.high - spec.low, runtime)
        _replace(module, node, OPS.quantize_dequantize.default, args)


def _write_weight(module: fx.GraphModule, node: fx.Node, quantizer: FakeQuantize) -> None:
    spec, source = quantizer.spec, node.args[0]
    assert isinstance(source, fx.Node)
    integers = quantizer.levels(get_tensor(module, source).detach())
    axis = ONE_SCALE if spec.axis is None else spec.axis
    scale = quantizer.scale.detach()
    scale = scale.reshape(()) if spec.axis is None else scale
    name = str(node.target).rpartition(".")[2]
    zero_point = None
    if spec.bits == 8 and not spec.symmetric:
        zeros = quantizer.zero_point.reshape(scale.shape)
        zero_point = _buffer(module, node, f"{name}_zero_point", zeros.to(torch.uint8))
        integers = (integers + along(zeros, integers, spec.axis)).to(torch.uint8)
    else:
        # The integers less their zero point fit into int8 below 8 bits, and integer kernels take
        # weights with zero point 0 only.
        integers = integers.to(torch.int8)
    if all(user.target in LINEAR for user in node.users):
        integers, axis = integers.t(), 1 - axis if axis >= 0 else axis
        for user in list(node.users):
            bias = user.args[2] if len(user.args) > 2 else None
            _replace(module, user, OPS.linear.default, (*user.args[:2], bias))
    q = _buffer(module, node, f"{name}_integers", integers)
    s = _buffer(module, node, f"{name}_scale", scale)
    _replace(module, node, OPS.dequantize.default, (q, s, zero_point, axis))


def _write_bias(module: fx.GraphModule, node: fx.Node, quantizer: BiasQuantize) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    bias = get_tensor(module, source).detach()
    name = str(node.target).rpartition(".")[2]
    integers = quantizer.levels(bias).to(torch.int32)
    scale = quantizer.scale.detach().expand(bias.shape[0]).contiguous()
    q = _buffer(module, node, f"{name}_integers", integers)
    s = _buffer(module, node, f"{name}_scale", scale)
    _replace(module, node, OPS.dequantize.default, (q, s, None, 0))


def _finish(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if is_global_pool(node):
            _write_global_pool(module, node)
        elif _flattens(node):
            _replace(module, node, OPS.flatten.default, (node.args[0],))
    if hasattr(module, QUANTIZERS):
        delattr(module, QUANTIZERS)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()


def _write_global_pool(module: fx.GraphModule, node: fx.Node) -> None:
    pooled = _replace(module, node, OPS.global_average_pool.default, (node.args[0],))
    keeps = node.target is not A.mean.dim or (len(node.args) > 2 and bool(node.args[2]))
    if not keeps:
        with module.graph.inserting_after(pooled):
            flat = module.graph.call_function(OPS.flatten.default, (pooled,))
        flat.meta = pooled.meta
        pooled.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)


def _flattens(node: fx.Node) -> bool:
    """Whether a node is a reshape that keeps the first dimension and makes one of all others."""
    if node.target not in (A.view.default, A.reshape.default, A.flatten.using_ints):
        return False
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
