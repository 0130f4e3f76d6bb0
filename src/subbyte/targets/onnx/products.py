"""Matrix products of two activations, written so that the runtimes compute them on integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from subbyte.graph.operators import MATMUL, MUL, A
from subbyte.targets.onnx.layout import LAYOUT, shortest
from subbyte.targets.onnx.operators import OPS, ORT, OV, Kind


@dataclass(frozen=True)
class _Operand:
    """One factor of a product: base → moves → grid → moves → product.

    factor: of a multiplication in front of the grid. low, high: the grid's levels, less their zero
    point.
    """

    base: fx.Node
    moves: tuple[fx.Node, ...]
    scale: float
    factor: float
    low: int
    high: int


def write_products(module: fx.GraphModule, target: str | None) -> None:
    """Rewrite, in place, the factors of all products of activations. No level changes.

    OpenVINO multiplies on integers if both zero points are 0, for which the first factor must be
    written as int8, and its rounding be the neighbour of its dequantization; it exchanges rows and
    columns within the kernel of attention, if that stands right in front of the product. ONNX
    Runtime is fastest with uint8 times int8, and with moves of integers; it makes uint8 of every
    int8 that is written as OpenVINO needs it, unless the zero point is left out.
    """
    for node in list(module.graph.nodes):
        if node.target in MATMUL and node.args[0] is not node.args[1]:
            for side in (0, 1):
                operand = _operand(node, side)
                if operand is not None:
                    _write(module, node, side, operand, target)


def _operand(product: fx.Node, side: int) -> _Operand | None:
    """A factor, where nothing else reads what is on its way and int8 holds its levels."""
    node: Any = product.args[side]
    moves: list[fx.Node] = []
    grid, factor = None, 1.0
    while len(node.users) == 1:
        if node.target in LAYOUT:
            moves.append(node)
        elif node.target is OPS.qdq.default and grid is None:
            grid = node
        elif grid is not None and node.target in MUL and _is_positive(node.args[1]):
            factor *= node.args[1]
        else:
            break
        node = node.args[0]
    if grid is None:
        return None
    scale, zero_point, low, high = grid.args[1:5]
    low, high = low - zero_point, high - zero_point
    if low >= 0 or low < -128 or high > 127:
        return None  # a softmax, say, which is right as it is
    return _Operand(node, tuple(reversed(moves)), scale, factor, low, high)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _write(
    module: fx.GraphModule, product: fx.Node, side: int, operand: _Operand, target: str | None
) -> None:
    kinds = (Kind.UINT8, Kind.BARE) if target == ORT else (Kind.INT8, Kind.UINT8)
    # A multiplication by a number is another scale before the rounding than behind it.
    levels = (operand.scale / operand.factor, operand.low, operand.high, kinds[side])
    node, moves, last = operand.base, operand.moves, operand.moves[-1:]
    within = target == OV and side == 1 and bool(last) and _transposes(last[0])
    if target == ORT:
        node = _call(module, product, OPS.to_levels.default, (node, *levels), node)
    for op, args in shortest(operand.base, moves[:-1] if within else moves):
        node = _call(module, product, op, (node, *args), product)
    if target != ORT:
        node = _call(module, product, OPS.to_levels.default, (node, *levels), node)
    node = _call(module, product, OPS.from_levels.default, (node, operand.scale, kinds[side]), node)
    if within:
        node = _call(module, product, last[0].target, (node, *last[0].args[1:]), product)
    product.update_arg(side, node)


def _transposes(move: fx.Node) -> bool:
    """Whether a move exchanges the last two dimensions and nothing else."""
    args: tuple[Any, ...] = move.args[1:]
    rank = move.meta["val"].dim()
    if move.target is A.transpose.int:
        return {dimension % rank for dimension in args} == {rank - 2, rank - 1}
    order = [*range(rank - 2), rank - 1, rank - 2]
    return move.target is A.permute.default and [d % rank for d in args[0]] == order


def _call(
    module: fx.GraphModule, before: fx.Node, target: Any, args: tuple[Any, ...], like: fx.Node
) -> fx.Node:
    with module.graph.inserting_before(before):
        new = module.graph.call_function(target, args)
    new.meta = dict(like.meta)
    return new
