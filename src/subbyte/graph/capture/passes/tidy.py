"""Operators of an exported graph that have no effect, removed or made plain."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from subbyte.graph.operators import A, add_constant, rank_of

# Checks of types, values and sizes: they hold at capture and are no part of what is computed.
CHECKS = {
    A._assert_tensor_metadata.default,
    A._assert_scalar.default,
    A._assert_async.default,
    A._assert_async.msg,
    A.sym_constrain_range.default,
    A.sym_constrain_range_for_size.default,
}
SLOPES = (1 / 8, 1 / 3)  # between which RReLU draws, where a node does not say others
# They ask for strides that a tensor need not have any more when something was put in front.
SQUEEZES = {A.squeeze.default, A.squeeze.dim, A.squeeze.dims}
VIEWS = {A.view.default, A._unsafe_view.default}
# Tensors that take no more than the type (and the shape) of the one they are made from.
FILLED = {
    A.new_zeros.default: 0,
    A.new_ones.default: 1,
    A.zeros_like.default: 0,
    A.ones_like.default: 1,
}


def tidy(module: fx.GraphModule) -> None:
    """Replace, in place, what only looks as if it did something.

    A squeeze names its dimensions, so that runtimes know the rank of what it gives; group norm of
    a matrix has a third dimension, without which they lack it. A ReLU that draws its slopes in
    training has the mean of them, as a leaky one, which runtimes know. A padding by nothing goes,
    and so do checks and what is computed for them alone; views become reshapes, and a tensor of
    zeros or ones that takes its type from another becomes a constant: it does not depend on the
    other's values.
    """
    for node in list(module.graph.nodes):
        if node.target is A.pad.default and not any(node.args[1]):
            _use(module, node, node.args[0])
        elif node.target in CHECKS:
            module.graph.erase_node(node)
        elif node.target in VIEWS:
            node.target = A.reshape.default
        elif node.target in SQUEEZES:
            _name_dimensions(module, node)
        elif node.target is A.group_norm.default and rank_of(node.args[0]) == 2:
            _normalize_in_three_dimensions(module, node)
        elif node.target is A.rrelu.default and not any(node.args[3:4]):
            _draw_no_slopes(node)
        elif node.target in FILLED and _is_fixed(node.meta.get("val")):
            _use(module, node, _constant(module, node, FILLED[node.target]))
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _use(module: fx.GraphModule, node: fx.Node, instead: fx.Node) -> None:
    node.replace_all_uses_with(instead)
    module.graph.erase_node(node)


def _name_dimensions(module: fx.GraphModule, node: fx.Node) -> None:
    """Let a squeeze name the dimensions that it removes: those that have one position always."""
    source: Any = node.args[0]
    shape = source.meta["val"].shape
    named: Any = node.args[1] if len(node.args) > 1 else range(len(shape))
    given = [named] if isinstance(named, int) else named
    removed = [d % len(shape) for d in given if isinstance(shape[d], int) and shape[d] == 1]
    if removed:
        node.target, node.args, node.kwargs = A.squeeze.dims, (source, sorted(removed)), {}
    else:
        _use(module, node, source)


def _normalize_in_three_dimensions(module: fx.GraphModule, node: fx.Node) -> None:
    """Group norm of (N, C) as that of (N, C, 1)."""
    source: Any = node.args[0]
    with module.graph.inserting_before(node):
        whole = module.graph.call_function(A.unsqueeze.default, (source, -1))
    whole.meta = {**node.meta, "val": source.meta["val"].unsqueeze(-1)}
    node.args = (whole, *node.args[1:])
    with module.graph.inserting_after(node):
        rows = module.graph.call_function(A.squeeze.dims, (node, [2]))
    rows.meta = dict(node.meta)
    node.meta["val"] = node.meta["val"].unsqueeze(-1)
    node.replace_all_uses_with(rows, delete_user_cb=lambda user: user is not rows)


def _draw_no_slopes(node: fx.Node) -> None:
    """A randomized leaky ReLU as it is outside of training."""
    given: list[Any] = [*node.args, *SLOPES[len(node.args) - 1 :]]
    node.target, node.kwargs = A.leaky_relu.default, {}
    node.args = (given[0], (given[1] + given[2]) / 2)


def _is_fixed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and all(isinstance(n, int) for n in value.shape)


def _constant(module: fx.GraphModule, node: fx.Node, number: int) -> fx.Node:
    like = node.meta["val"]
    value = torch.full(like.shape, number, dtype=like.dtype, device=like.device)
    return add_constant(module, node, node.name, value)
