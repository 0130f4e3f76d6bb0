"""Weights of at most 4 bits, two to a byte in the file."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def pack(proto: onnx.ModelProto) -> None:
    """Store the int8 weights with at most 16 neighbouring levels a channel as int4, in place.

    int4 → Cast → (Add of the channel's shift →) int8 → DequantizeLinear. The runtimes compute the
    int8 levels when they load the file; behind a DequantizeLinear of int4 itself they would run the
    layer in float.
    """
    graph = proto.graph
    weights = {value.name: value for value in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weight = weights[node.input[0]]
            found = _int4(numpy_helper.to_array(weight), _axis(node))
            if weight.data_type == TensorProto.INT8 and found is not None:
                del weights[weight.name]
                packed, shift = found
                weights[f"{weight.name}_int4"] = _packed(f"{weight.name}_int4", packed)
                shifted = bool(shift.any())
                if shifted:
                    weights[f"{weight.name}_shift"] = numpy_helper.from_array(
                        shift, f"{weight.name}_shift"
                    )
                nodes += _unpacked(weight.name, shifted)
        nodes.append(node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(weights.values())
    graph.node.extend(nodes)


def _int4(levels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Levels less a shift for each channel, −8 … 7, and the shift (int32).

    The shift has the rank of the levels, and is 0 where these fit as they are. `None`: in some
    channel they do not fit with any.
    """
    others = tuple(d for d in range(levels.ndim) if d != axis)
    low = levels.min(others, keepdims=True).astype(np.int32)
    high = levels.max(others, keepdims=True).astype(np.int32)
    if (high - low > 15).any():
        return None
    shift = np.clip(0, high - 7, low + 8).astype(np.int32)
    return levels - shift, shift


def _unpacked(name: str, shifted: bool) -> list[onnx.NodeProto]:
    """The nodes that give the int8 tensor `name` again."""
    source, kind = f"{name}_int4", TensorProto.INT8
    if not shifted:
        return [helper.make_node("Cast", [source], [name], to=kind)]
    # In int32, for which older versions of ONNX Runtime have an Add too.
    wide, total = f"{name}_wide", f"{name}_sum"
    return [
        helper.make_node("Cast", [source], [wide], to=TensorProto.INT32),
        helper.make_node("Add", [wide, f"{name}_shift"], [total]),
        helper.make_node("Cast", [total], [name], to=kind),
    ]


def _packed(name: str, levels: np.ndarray) -> onnx.TensorProto:
    """A constant of type int4: two values to a byte, the first one in its lower half."""
    halves = (levels.ravel() & 15).astype(np.uint8)
    halves = np.append(halves, np.zeros(len(halves) % 2, np.uint8))
    content = (halves[::2] | halves[1::2] << 4).tobytes()
    return helper.make_tensor(name, TensorProto.INT4, levels.shape, content, raw=True)


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
