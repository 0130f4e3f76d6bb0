"""Weights of at most 4 bits, two to a byte in the file."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, attribute, constant, put

INT8, INT32 = ir.DataType.INT8, ir.DataType.INT32


def pack(model: ir.Model) -> None:
    """Store the int8 weights with at most 16 neighbouring integers a channel as int4, in place.

    int4 → Cast → (Add of the channel's shift →) int8 → DequantizeLinear. The runtimes compute the
    int8 weights when they load the file; behind a DequantizeLinear of int4 itself they would run
    the layer in float.
    """
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if weight is None or not weight.is_initializer() or weight.dtype != INT8:
            continue
        given = array(weight)
        assert given is not None
        found = _int4(given, attribute(node, "axis", 1))
        if found is not None:
            _unpack(model.graph, node, weight, *found)


def _int4(integers: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Integers less a shift for each channel, −8 … 7, and the shift (int32).

    The shift has the rank of the integers, and is 0 where these fit as they are. `None`: in some
    channel they do not fit with any.
    """
    others = tuple(d for d in range(integers.ndim) if d != axis)
    low = integers.min(others, keepdims=True).astype(np.int32)
    high = integers.max(others, keepdims=True).astype(np.int32)
    if (high - low > 15).any():
        return None
    shift = np.clip(0, high - 7, low + 8).astype(np.int32)
    return integers - shift, shift


def _unpack(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, packed: np.ndarray, shift: np.ndarray
) -> None:
    """Put the nodes in front of `node` that give the int8 weight again, in its place."""
    name = str(weight.name)
    del graph.initializers[name]
    value = constant(graph, f"{name}_int4", packed, ml_dtypes.int4)
    if shift.any():
        # In int32, for which older versions of ONNX Runtime have an Add too.
        wide = put(node, "Cast", [value], {"to": INT32}, shape=packed.shape, dtype=INT32)
        moved = constant(graph, f"{name}_shift", shift)
        value = put(node, "Add", [wide, moved], shape=packed.shape, dtype=INT32)
    whole = put(node, "Cast", [value], {"to": INT8}, shape=packed.shape, dtype=INT8)
    weight.replace_all_uses_with(whole)
    whole.name, weight.name = name, None
