"""The simulation as a graph of operators that all targets' files begin with.

The only place that reads quantizers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.float_model import shared
from subbyte.graph.operators import LINEAR, A, get_tensor, is_global_pool
from subbyte.numerics.fake_quantize import (
    BiasQuantize,
    FakeQuantize,
    QuantizedWeight,
    Quantizer,
)
from subbyte.numerics.qparams import signed_integers
from subbyte.placement.insert import QUANTIZERS
from subbyte.placement.simulation import Simulation
from subbyte.targets.onnx.domain import EVERY, joined
from subbyte.targets.onnx.fourier import write_transforms
from subbyte.targets.onnx.operators import ONE_SCALE, OPS
from subbyte.targets.onnx.resizing import write_nearest


def neutral(simulation: Simulation) -> nn.Module:
    """A copy of the model whose quantized weights are integers, for all targets.

    Weights and biases become int8 (uint8, where 8 bits have a zero point) and int32 tensors with a
    dequantization; activations our own operator for their quantization and dequantization, which
    says for which targets alone it is there. What an exporter's own decompositions would make
    runtimes stumble over is replaced too. A tensor without parameters is in float.
    """
    model, region_of = _copied(simulation.model), dict[str, fx.GraphModule]()
    for name in simulation.region_names:
        region = model.get_submodule(name)
        assert isinstance(region, fx.GraphModule)
        region_of[name] = region
    only_for = {
        id(quantizer): joined(tensor.only_for) for tensor, quantizer in simulation.quantizers()
    }
    for name, region in region_of.items():
        for node in list(region.graph.nodes):
            if node.op == "call_module":
                quantizer = simulation.region(name).get_submodule(str(node.target))
                _write_quantizer(region, node, quantizer, only_for.get(id(quantizer), EVERY))
        _finish(region)
    return model


def _copied(model: nn.Module) -> nn.Module:
    """A copy that shares the memory of `model`'s tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): shared(tensor) for tensor in tensors})


def _write_quantizer(
    module: fx.GraphModule, node: fx.Node, quantizer: nn.Module, only_for: str
) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if not _rounds(quantizer):
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    elif isinstance(quantizer, BiasQuantize):
        _write_bias(module, node, quantizer)
    elif isinstance(quantizer, QuantizedWeight):
        _write_weight(module, node, quantizer)
    elif isinstance(quantizer, FakeQuantize):
        # Signed integers are shifted to 0 …: with uint8 a runtime fuses the ReLU, with int8 it
        # does not.
        spec = quantizer.spec
        if spec.rectified:
            with module.graph.inserting_before(node):
                source = module.graph.call_function(A.relu.default, (source,))
            source.meta = dict(node.meta)
        zero_point = int(quantizer.zero_point) - spec.low
        args = (source, float(quantizer.scale), zero_point, 0, spec.high - spec.low, only_for)
        _replace(module, node, OPS.quantize_dequantize.default, args)


def _rounds(quantizer: nn.Module) -> bool:
    """Whether a module has the parameters that it needs to quantize what it is given."""
    operands = quantizer.operands if isinstance(quantizer, BiasQuantize) else (quantizer,)
    return all(isinstance(operand, Quantizer) and operand.has_params for operand in operands)


def _write_weight(module: fx.GraphModule, node: fx.Node, quantizer: QuantizedWeight) -> None:
    spec, params = quantizer.spec, quantizer.params
    assert params is not None
    assert params.integers is not None
    axis = ONE_SCALE if spec.axis is None else spec.axis
    scale = params.scale.reshape(()) if spec.axis is None else params.scale
    name = str(node.target).rpartition(".")[2]
    zero_point = None
    if spec.bits == 8 and not spec.symmetric:
        zeros = params.zero_point.reshape(scale.shape)
        zero_point = _buffer(module, node, f"{name}_zero_point", zeros.to(torch.uint8))
        integers = params.integers
    else:
        # The integers less their zero point fit into int8 below 8 bits, and integer kernels take
        # weights with zero point 0 only.
        integers = signed_integers(params, spec).to(torch.int8)
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
    integers = quantizer.integers(bias).to(torch.int32)
    scale = quantizer.scales(bias).detach()
    q = _buffer(module, node, f"{name}_integers", integers)
    s = _buffer(module, node, f"{name}_scale", scale)
    _replace(module, node, OPS.dequantize.default, (q, s, None, 0))


def _finish(module: fx.GraphModule) -> None:
    write_transforms(module)
    write_nearest(module)
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
