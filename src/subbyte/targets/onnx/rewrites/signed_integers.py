"""Q/DQ in int8 with zero points of 0 alone, and biases in float, as TensorRT takes them."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from subbyte.errors import SubbyteError
from subbyte.targets.onnx.graph import (
    array,
    attribute,
    constant,
    number,
    only_reader,
    put,
    replace,
)
from subbyte.targets.onnx.qdq import Qdq, settings, write_each

INT8 = ir.DataType.INT8
LOWEST, HIGHEST = -128, 127


def write_signed_integers(model: ir.Model) -> None:
    """Write each operator of our own as nodes whose integers are int8 with a zero point of 0.

    Integers less their zero point fit into int8 where they are symmetric or of fewer than 8 bits.
    Values beyond fewer than 256 integers are clipped in floats, in front of the rounding, where a
    ReLU is a part of the clipping. Biases are the floats that their int32 integers stand for.

    Raises:
        SubbyteError: A zero point of a tensor of 8 bits is not 0.
    """
    write_each(model, _write_qdq, _write_constant)


def _write_qdq(graph: ir.Graph, node: ir.Node) -> None:
    qdq, x, name = settings(node), node.inputs[0], node.outputs[0].name
    assert x is not None
    low, high = qdq.low - qdq.zero_point, qdq.high - qdq.zero_point
    if low < LOWEST or high > HIGHEST:
        raise _unlike(f"the activation {name}")
    if (low, high) != (LOWEST, HIGHEST):
        x = _clipped(graph, node, x, qdq)
    factor = constant(graph, f"{name}_scale", qdq.scale, np.float32)
    zero = constant(graph, f"{name}_zero_point", 0, np.int8)
    q = put(node, "QuantizeLinear", [x, factor, zero], dtype=INT8)
    replace(node.outputs[0], put(node, "DequantizeLinear", [q, factor, zero]))


def _clipped(graph: ir.Graph, node: ir.Node, x: ir.Value, qdq: Qdq) -> ir.Value:
    """`x` between the values of the outermost integers, in one Clip with a ReLU in front of it."""
    low, high = ((end - qdq.zero_point) * qdq.scale for end in (qdq.low, qdq.high))
    made = x.producer()
    limits = None if made is None or only_reader(x) is not node else _limits(made)
    if made is not None and limits is not None and made.inputs[0] is not None:
        low, high, x = max(low, limits[0]), min(high, limits[1]), made.inputs[0]
    name = node.outputs[0].name
    ends = [
        constant(graph, f"{name}_{side}", end, np.float32)
        for side, end in (("low", low), ("high", high))
    ]
    return put(node, "Clip", [x, *ends])


def _limits(node: ir.Node) -> tuple[float, float] | None:
    """What a ReLU or a clip to numbers, which holds 0, limits values to; `None` of other nodes."""
    if node.domain or node.op_type not in ("Relu", "Clip"):
        return None
    if node.op_type == "Relu":
        return 0.0, math.inf
    given = [*node.inputs[1:], None, None][:2]
    low, high = (number(end) for end in given)
    if (low is None and given[0] is not None) or (high is None and given[1] is not None):
        return None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return (low, high) if low <= 0 <= high else None


def _write_constant(graph: ir.Graph, node: ir.Node) -> None:
    """A bias becomes floats; a weight stays integers, with zero points that are written down."""
    held, scale, *zeros = node.inputs
    integers, factor = array(held), array(scale)
    if held is None or integers is None or factor is None:
        return
    if integers.dtype == np.int32:
        floats = integers.astype(np.float32) * factor
        replace(node.outputs[0], constant(graph, f"{held.name}_in_float", floats))
        return
    if zeros and zeros[0] is not None and np.any(array(zeros[0])):
        raise _unlike(f"the weight {held.name}")
    zero = constant(graph, f"{held.name}_zero_point", np.zeros(factor.shape, np.int8))
    given = {"axis": attribute(node, "axis", 1)} if factor.ndim else {}
    shape = integers.shape
    made = put(node, "DequantizeLinear", [held, scale, zero], given, shape=shape)
    replace(node.outputs[0], made)


def _unlike(what: str) -> SubbyteError:
    return SubbyteError(
        f"{what} has 8 bits and a zero point other than 0, which TensorRT does not take: quantize "
        "with target: tensorrt in the recipe"
    )
