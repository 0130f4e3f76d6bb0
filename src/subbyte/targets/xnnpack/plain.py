"""Operators written as those that XNNPACK has."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from subbyte.graph.operators import A, add_constant, clamp_of, is_global_pool
from subbyte.numerics.fake_quantize import FakeQuantize

SIXTH = 1 / 6


def write_plainly(module: fx.GraphModule) -> None:
    """Write what XNNPACK lacks as operators that it has, of the same values."""
    for node in list(module.graph.nodes):
        if node.target is A.dropout.default or _joins_one(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
        elif is_global_pool(node):
            _write_global_pool(module, node)
        elif node.target is A.hardsigmoid.default:
            _write_hardsigmoid(module, node)
        elif node.target is A.avg_pool2d.default:
            _write_padding(module, node)
        elif node.target not in (A.relu.default, A.hardtanh.default):
            _write_limits(module, node)


def _joins_one(node: fx.Node) -> bool:
    """Whether a node concatenates a single tensor."""
    return node.target is A.cat.default and len(cast("list[Any]", node.args[0])) == 1


def _call(module: fx.GraphModule, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A new node in front of `like`, with its metadata."""
    with module.graph.inserting_before(like):
        new = module.graph.call_function(target, args)
    new.meta = dict(like.meta)
    return new


def _write_global_pool(module: fx.GraphModule, node: fx.Node) -> None:
    """The mean of height and width, which keeps both; quantizers stand in front of the rest."""
    pooled = _call(module, node, A.mean.dim, node.args[0], [2, 3], True)
    keeps = node.target is not A.mean.dim or (len(node.args) > 2 and bool(node.args[2]))
    if not keeps:
        for user in list(node.users):
            quantizes = user.op == "call_module" and isinstance(
                module.get_submodule(str(user.target)), FakeQuantize
            )
            if quantizes:
                user.replace_input_with(node, pooled)
                with module.graph.inserting_after(user):
                    flat = module.graph.call_function(A.flatten.using_ints, (user, 1))
                flat.meta = dict(user.meta)
                user.replace_all_uses_with(flat)
                flat.args = (user, 1)
        if node.users:
            flat = _call(module, node, A.flatten.using_ints, pooled, 1)
            node.replace_all_uses_with(flat)
    else:
        node.replace_all_uses_with(pooled)
    module.graph.erase_node(node)


def _write_hardsigmoid(module: fx.GraphModule, node: fx.Node) -> None:
    """clamp(x + 3, 0, 6) / 6."""
    three = add_constant(module, node, "three", torch.full((1,), 3.0))
    sixth = add_constant(module, node, "sixth", torch.full((1,), SIXTH))
    moved = _call(module, node, A.add.Tensor, node.args[0], three)
    limited = _call(module, node, A.hardtanh.default, moved, 0.0, 6.0)
    node.replace_all_uses_with(_call(module, node, A.mul.Tensor, limited, sixth))
    module.graph.erase_node(node)


def _write_padding(module: fx.GraphModule, node: fx.Node) -> None:
    """Zeros that count in an average stand in front of it."""
    given = dict(zip(("kernel", "stride", "padding"), node.args[1:4], strict=False))
    counts = node.args[5] if len(node.args) > 5 else node.kwargs.get("count_include_pad", True)
    ceil = node.args[4] if len(node.args) > 4 else node.kwargs.get("ceil_mode", False)
    high, wide = _both(given.get("padding", 0))
    if not counts or ceil or not (high or wide):
        return
    padded = _call(module, node, A.constant_pad_nd.default, node.args[0], [wide, wide, high, high])
    node.args = (padded, node.args[1], given["stride"] or given["kernel"], [0, 0])
    node.kwargs = {}


def _write_limits(module: fx.GraphModule, node: fx.Node) -> None:
    """A function of two limits as the one that kernels compute along with a layer."""
    limits = clamp_of(node)
    if limits is None or float("inf") in (-limits[0], limits[1]):
        return
    node.replace_all_uses_with(_call(module, node, A.hardtanh.default, node.args[0], *limits))
    module.graph.erase_node(node)


def _both(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1]) if values else (0, 0)
