"""The last convolutions, whose results stay in float, written as matrix products."""

from __future__ import annotations

from typing import Any

from torch import fx

from subbyte.graph.operators import A, get_tensor
from subbyte.targets.onnx.operators import ONE_SCALE, OPS

Grids = dict[fx.Node, tuple[Any, ...]]  # scale and zero point


def write_last_convolutions(module: fx.GraphModule, given: Grids) -> None:
    """Rewrite, in place, each 2-d convolution on integers whose result is on no grid.

    No value changes. ONNX Runtime has no integer kernel for a convolution with a float result that
    is faster than the float one, but has one for a matrix product: a convolution is that of the
    patches that it reads with its weight. given: placeholders that come from other regions on a
    grid.
    """
    weights: dict[fx.Node, fx.Node] = {}  # several convolutions may share one
    for node in list(module.graph.nodes):
        if node.target is not A.conv2d.default or node.args[6:] not in ((), (1,)):
            continue
        data, weight = node.args[:2]
        grid = data.args[1:3] if data.target is OPS.qdq.default else given.get(data)
        integers = getattr(weight, "target", None) is OPS.dequantize.default
        if grid is None or not integers or any(u.target is OPS.qdq.default for u in node.users):
            continue
        if weight not in weights:
            weights[weight] = _as_matrix(module, weight, node)
        _write(module, node, grid, weights[weight])


def _as_matrix(module: fx.GraphModule, weight: fx.Node, before: fx.Node) -> fx.Node:
    """A weight [out, in, height, width] as [height · width · in, out]."""
    levels, scale, zero_point, axis = weight.args
    value = get_tensor(module, levels)  # type: ignore[arg-type]
    matrix = value.permute(2, 3, 1, 0).reshape(-1, len(value)).contiguous()
    name = f"{levels}_matrix"
    module.register_buffer(name, matrix)
    with module.graph.inserting_before(before):
        q = module.graph.get_attr(name)
        axis = ONE_SCALE if axis == ONE_SCALE else 1
        return module.graph.call_function(OPS.dequantize.default, (q, scale, zero_point, axis))


def _write(module: fx.GraphModule, node: fx.Node, grid: tuple[Any, ...], matrix: fx.Node) -> None:
    sides = [int(length) for length in node.args[1].meta["val"].shape[2:]]  # type: ignore[union-attr]
    settings = [*node.args[3:6], *([1, 1], [0, 0], [1, 1])[len(node.args[3:6]) :]]
    bias = node.args[2] if len(node.args) > 2 else None
    with module.graph.inserting_before(node):
        args = (node.args[0], *grid, sides, *settings)
        patches = module.graph.call_function(OPS.patches.default, args)
        product = module.graph.call_function(OPS.linear.default, (patches, matrix, bias))
        new = module.graph.call_function(A.permute.default, (product, [0, 3, 1, 2]))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
