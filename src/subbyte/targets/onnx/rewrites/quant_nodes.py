"""Quantizations as the `Quant` nodes of QONNX, whose weights are floats that they round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, attribute, constant, put, replace, shape_of
from subbyte.targets.onnx.qdq import settings, write_each

QONNX = "qonnx.custom_op.general"


@dataclass(frozen=True, eq=False)
class _Integers:
    """The integers of a `Quant` node.

    Attributes:
        bits: Their width.
        signed: From −2^(bits − 1) on, else from 0 on.
        narrow: Without the outermost one, that at the lower end if signed.
        zero_point: float32: a number, or one for each channel.
    """

    bits: int
    signed: bool
    narrow: bool
    zero_point: np.ndarray


def write_quant_nodes(model: ir.Model) -> None:
    """Write each Q/DQ and each quantized weight as a `Quant` node, and biases as floats."""
    write_each(model, _write_activation, _write_constant)
    model.opset_imports[QONNX] = 1


def _write_activation(graph: ir.Graph, node: ir.Node) -> None:
    qdq, x, name = settings(node), node.inputs[0], str(node.outputs[0].name)
    assert x is not None
    given = _of_ends(qdq.low - qdq.zero_point, qdq.high - qdq.zero_point)
    scale = np.array(qdq.scale, np.float32)
    replace(node.outputs[0], _quant(graph, node, x, scale, given, name))


def _write_constant(graph: ir.Graph, node: ir.Node) -> None:
    held, scale, *zeros = node.inputs
    integers, factor = array(held), array(scale)
    if held is None or integers is None or factor is None:
        return
    axis = attribute(node, "axis", 1) if factor.ndim and integers.ndim else None
    shape = [-1 if d == axis else 1 for d in range(integers.ndim)] if axis is not None else []
    zero = array(zeros[0]) if zeros else None
    less = 0 if zero is None else zero.reshape(shape).astype(np.int32)
    signed, factor = integers.astype(np.int32) - less, factor.reshape(shape)
    values = signed.astype(np.float32) * factor
    name = str(held.name).removesuffix("_integers")
    floats = constant(graph, f"{name}_values", values)
    if integers.dtype == np.int32:
        replace(node.outputs[0], floats)
        return
    given = _of_weight(signed, axis) if zero is None else _unsigned(8, less)
    floats.shape = ir.Shape(values.shape)
    made = _quant(graph, node, floats, factor, given, name)
    replace(node.outputs[0], made)


def _of_ends(low: int, high: int) -> _Integers:
    """Those from `low` to `high`, less their zero point."""
    bits = math.ceil(math.log2(high - low + 1))
    narrow = high - low == 2**bits - 2
    if high == 2 ** (bits - 1) - 1:
        return _Integers(bits, True, narrow, np.zeros((), np.float32))
    return _Integers(bits, False, narrow, np.array(-low, np.float32))


def _of_weight(integers: np.ndarray, axis: int | None) -> _Integers:
    """The fewest bits that hold a weight's integers, with zero points where they save some."""
    others = tuple(d for d in range(integers.ndim) if d != axis)
    if not integers.size:
        return _Integers(8, True, False, np.zeros((), np.float32))
    kept = axis is not None
    low = np.minimum(integers.min(others, keepdims=kept), 0)
    high = np.maximum(integers.max(others, keepdims=kept), 0)
    signed = _width(max(-int(low.min()) - 1, int(high.max()))) + 1
    spread = _width(int((high - low).max()))
    if signed <= max(spread, 2):
        return _Integers(max(signed, 2), True, False, np.zeros((), np.float32))
    return _unsigned(max(spread, 2), -low)


def _unsigned(bits: int, zero_point: np.ndarray | int) -> _Integers:
    return _Integers(bits, False, False, np.asarray(zero_point, np.float32))


def _width(number: int) -> int:
    """How many bits a number from 0 on takes."""
    return max(number, 0).bit_length()


def _quant(
    graph: ir.Graph, before: ir.Node, x: ir.Value, scale: np.ndarray, given: _Integers, name: str
) -> ir.Value:
    """What a new `Quant` node in front of another gives.

    Args:
        graph: The graph.
        before: The other node.
        x: What it rounds.
        scale: A number, or one for each channel.
        given: Its integers.
        name: What its constants are called.
    """
    inputs = [
        x,
        constant(graph, f"{name}_scale", scale, np.float32),
        constant(graph, f"{name}_zeropt", given.zero_point, np.float32),
        constant(graph, f"{name}_bitwidth", given.bits, np.float32),
    ]
    kinds = {"signed": int(given.signed), "narrow": int(given.narrow)}
    attributes = {**kinds, "rounding_mode": "ROUND"}
    return put(before, "Quant", inputs, attributes, shape=shape_of(x), domain=QONNX)
