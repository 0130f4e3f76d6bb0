"""Matrix products of two activations, written so that the runtimes have int8 kernels for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, LINEAR
from subbyte.targets.onnx.graph import (
    array,
    constant,
    number,
    only_reader,
    prune,
    put,
)
from subbyte.targets.onnx.layout import is_layout, permutation, shortest, step_of, take
from subbyte.targets.onnx.qdq import is_qdq, settings


class Kind(StrEnum):
    """How the integers of a product's factor are held, which are −128 … 127.

    UINT8: with the zero point 128. INT8: with the zero point 0. BARE: int8 without a zero point.
    """

    UINT8 = "uint8"
    INT8 = "int8"
    BARE = "bare"

    @property
    def dtype(self) -> ir.DataType:
        """Of its integers."""
        return ir.DataType.UINT8 if self is Kind.UINT8 else ir.DataType.INT8


@dataclass(frozen=True)
class _Operand:
    """One factor of a product: base → moves → Q/DQ → moves → product.

    Attributes:
        base: The first value.
        moves: The nodes between base and product that only move values.
        scale: Of the Q/DQ.
        factor: Of a multiplication in front of the Q/DQ.
        low: The smallest integer, less the zero point.
        high: The largest integer, less the zero point.
        name: Of the value that the product reads.
    """

    base: ir.Value
    moves: tuple[ir.Node, ...]
    scale: float
    factor: float
    low: int
    high: int
    name: str


def write_products(model: ir.Model) -> None:
    """Rewrite the factors of all products of activations for both runtimes. No integer changes.

    OpenVINO has an int8 kernel if both zero points are 0, for which the first factor must be
    written as int8, and its rounding be the neighbour of its dequantization. Values are moved
    before they are rounded.
    """
    for product, side, operand in _operands(model):
        value = _moved(product, operand, operand.base, operand.moves)
        kind = (Kind.INT8, Kind.UINT8)[side]
        value = _quantized(product, value, operand, kind)
        product.replace_input_with(side, _dequantized(product, value, operand, kind))
    prune(model)


def write_products_for_openvino(model: ir.Model) -> None:
    """The same for OpenVINO, which exchanges rows and columns within the kernel of attention.

    It does so if the exchange stands right in front of the product.
    """
    for product, side, operand in _operands(model):
        last = operand.moves[-1] if operand.moves else None
        within = side == 1 and last is not None and _transposes(last)
        moves = operand.moves[:-1] if within else operand.moves
        kind = (Kind.INT8, Kind.UINT8)[side]
        value = _moved(product, operand, operand.base, moves)
        value = _dequantized(product, _quantized(product, value, operand, kind), operand, kind)
        if within and last is not None:
            value = take(product, value, step_of(last))
        product.replace_input_with(side, value)
    prune(model)


def write_products_for_onnxruntime(model: ir.Model) -> None:
    """The same for ONNX Runtime, which is fastest with uint8 times int8 and moves of integers.

    It makes uint8 of every int8 that is written as OpenVINO needs it, unless the zero point is left
    out.
    """
    for product, side, operand in _operands(model):
        kind = (Kind.UINT8, Kind.BARE)[side]
        value = _quantized(product, operand.base, operand, kind)
        value = _moved(product, operand, value, operand.moves, kind.dtype)
        product.replace_input_with(side, _dequantized(product, value, operand, kind))
    prune(model)


def _operands(model: ir.Model) -> list[tuple[ir.Node, int, _Operand]]:
    """The factors that are to be rewritten: product, side, and what is on its way."""
    found = []
    for node in model.graph:
        if node.domain or node.op_type != "MatMul" or node.inputs[0] is node.inputs[1]:
            continue
        for side, value in enumerate(node.inputs):
            operand = None if value is None else _operand(value)
            if operand is not None:
                found.append((node, side, operand))
    return found


def _operand(value: ir.Value) -> _Operand | None:
    """A factor, where nothing else reads what is on its way and int8 holds its integers."""
    moves: list[ir.Node] = []
    qdq, name, factor = None, "", 1.0
    while only_reader(value) is not None:
        node = value.producer()
        if node is None:
            break
        by = _positive_factor(node) if qdq is not None else None
        source = node.inputs[0] if node.inputs else None
        if is_layout(node):
            moves.append(node)
        elif is_qdq(node) and qdq is None:
            qdq, name = settings(node), str(value.name)
            if len(node.inputs) > 1:
                return None
        elif by is not None:
            factor *= by[1]
            source = by[0]
        else:
            break
        assert source is not None
        value = source
    if qdq is None:
        return None
    low, high = qdq.low - qdq.zero_point, qdq.high - qdq.zero_point
    if low >= 0 or low < -128 or high > 127:
        return None  # a softmax, say, which is right as it is
    return _Operand(value, tuple(reversed(moves)), qdq.scale, factor, low, high, name)


def _positive_factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """What a multiplication by a positive number multiplies, and the number."""
    if node.domain or node.op_type != "Mul":
        return None
    for value, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        by = number(other)
        if value is not None and by is not None and by > 0 and array(value) is None:
            return value, by
    return None


def _moved(
    product: ir.Node,
    operand: _Operand,
    value: ir.Value,
    moves: tuple[ir.Node, ...],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    for step in shortest(operand.base, moves):
        value = take(product, value, step, dtype)
    return value


def _quantized(product: ir.Node, value: ir.Value, operand: _Operand, kind: Kind) -> ir.Value:
    """The integers of a factor, clipped in floats where there are fewer than 256."""
    graph, name = _graph(product), operand.name
    # A multiplication by a number is another scale before the rounding than behind it.
    scale = float(np.float32(operand.scale / operand.factor))
    if (operand.low, operand.high) != (-128, 127):
        ends = [
            constant(graph, f"{name}_{side}", end * scale, np.float32)
            for side, end in (("low", operand.low), ("high", operand.high))
        ]
        value = put(product, "Clip", [value, *ends])
    factor = constant(graph, f"{name}_factor", scale, np.float32)
    if kind is Kind.BARE:
        if _is_bare_product(value):
            # Between the two, or ONNX Runtime makes one of them, and finds no zero point for it.
            value = put(product, "Sum", [value])
        given = {"output_dtype": kind.dtype}
        return put(product, "QuantizeLinear", [value, factor], given, dtype=kind.dtype)
    zero = _zero_point(graph, name, kind)
    return put(product, "QuantizeLinear", [value, factor, zero], dtype=kind.dtype)


def _dequantized(product: ir.Node, value: ir.Value, operand: _Operand, kind: Kind) -> ir.Value:
    graph, name = _graph(product), operand.name
    factor = constant(graph, f"{name}_scale", operand.scale, np.float32)
    if kind is Kind.BARE:
        return put(product, "DequantizeLinear", [value, factor])
    return put(product, "DequantizeLinear", [value, factor, _zero_point(graph, name, kind)])


def _is_bare_product(value: ir.Value) -> bool:
    """Whether a value is a matrix product itself, and not its sum with a bias."""
    made = value.producer()
    kinds = {("", "MatMul"), (DOMAIN, LINEAR)}
    return made is not None and (made.domain, made.op_type) in kinds and len(made.inputs) == 2


def _zero_point(graph: ir.Graph, name: str, kind: Kind) -> ir.Value:
    zero, dtype = (128, np.uint8) if kind is Kind.UINT8 else (0, np.int8)
    return constant(graph, f"{name}_zero_point", zero, dtype)


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _transposes(move: ir.Node) -> bool:
    """Whether a move exchanges the last two dimensions and nothing else."""
    if move.op_type != "Transpose":
        return False
    order = permutation(move)
    rank = len(order)
    return order == [*range(rank - 2), rank - 1, rank - 2]
