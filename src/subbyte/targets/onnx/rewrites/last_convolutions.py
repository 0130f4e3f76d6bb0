"""The last convolutions, whose results stay in float, written as matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, LINEAR
from subbyte.targets.onnx.graph import array, attribute, constant, prune, put, readers, replace
from subbyte.targets.onnx.qdq import Qdq, is_qdq, qdq_of

UINT8 = ir.DataType.UINT8


def write_last_convolutions(model: ir.Model) -> None:
    """Rewrite each quantized 2-d convolution whose result stays in float.

    No value changes. ONNX Runtime has no integer kernel for a convolution with a float result that
    is faster than the float one, but has one for a matrix product: a convolution is that of the
    patches that it reads with its weight.
    """
    weights: dict[ir.Value, ir.Value] = {}  # several convolutions may share one
    for node in list(model.graph):
        if node.op_type != "Conv" or node.domain or attribute(node, "group", 1) != 1:
            continue
        data, weight = node.inputs[:2]
        qdq = qdq_of(data)
        if qdq is None or weight is None or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
            continue
        if any(is_qdq(reader) for reader in readers(node.outputs[0])):
            continue
        if weight not in weights:
            matrix = _as_matrix(model.graph, node, weight)
            if matrix is None:
                continue
            weights[weight] = matrix
        _write(model.graph, node, qdq, weights[weight])
    prune(model)


def _as_matrix(graph: ir.Graph, before: ir.Node, weight: ir.Value) -> ir.Value | None:
    """An integer weight [out, in, height, width] as [height · width · in, out]."""
    node = weight.producer()
    given = None if node is None or node.op_type != "DequantizeLinear" else array(node.inputs[0])
    if node is None or given is None or given.ndim != 4:
        return None
    matrix = np.ascontiguousarray(given.transpose(2, 3, 1, 0).reshape(-1, len(given)))
    q = constant(graph, f"{weight.name}_matrix", matrix)
    attributes = {name: found.value for name, found in node.attributes.items()}
    scale = array(node.inputs[1])
    if scale is not None and scale.ndim:
        attributes["axis"] = 1
    return put(before, "DequantizeLinear", [q, *node.inputs[1:]], attributes, shape=matrix.shape)


def _write(graph: ir.Graph, node: ir.Node, qdq: Qdq, matrix: ir.Value) -> None:
    patches = _patches(graph, node, qdq)
    product = put(node, LINEAR, [patches, matrix, *node.inputs[2:]], domain=DOMAIN)
    replace(node.outputs[0], put(node, "Transpose", [product], {"perm": [0, 3, 1, 2]}))


def _patches(graph: ir.Graph, node: ir.Node, qdq: Qdq) -> ir.Value:
    """All patches that a convolution reads: [N, height, width, values], moved as integers."""
    data, weight, name = node.inputs[0], node.inputs[1], node.outputs[0].name
    assert weight is not None
    assert weight.shape is not None
    sides = [int(n) for n in weight.shape.dims[2:]]  # type: ignore[arg-type]
    dilation, stride = (attribute(node, key, [1, 1]) for key in ("dilations", "strides"))
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    factor = constant(graph, f"{name}_input_scale", qdq.scale, np.float32)
    zero = constant(graph, f"{name}_input_zero_point", qdq.zero_point, np.uint8)
    q = put(node, "QuantizeLinear", [data, factor, zero], dtype=UINT8)
    q = put(node, "Transpose", [q], {"perm": [0, 2, 3, 1]}, dtype=UINT8)
    if any((top, left, bottom, right)):
        pads = _whole(graph, f"{name}_pads", [0, top, left, 0, 0, bottom, right, 0])
        q = put(node, "Pad", [q, pads, zero], dtype=UINT8)
    axes, steps = _whole(graph, f"{name}_axes", [1, 2]), _whole(graph, f"{name}_steps", stride)
    taken = []
    for at in np.ndindex(*sides):
        begin = [place * by for place, by in zip(at, dilation, strict=True)]
        # From the end, as lengths are those of the example alone; 0 would be the beginning.
        rest = [(side - 1) * by for side, by in zip(sides, dilation, strict=True)]
        end = [a - b or 2**31 for a, b in zip(begin, rest, strict=True)]
        ends = [_whole(graph, f"{name}_{key}", n) for key, n in (("begin", begin), ("end", end))]
        taken.append(put(node, "Slice", [q, *ends, axes, steps], dtype=UINT8))
    q = put(node, "Concat", taken, {"axis": 3}, dtype=UINT8) if len(taken) > 1 else taken[0]
    return put(node, "DequantizeLinear", [q, factor, zero])


def _whole(graph: ir.Graph, name: str, values: Sequence[int]) -> ir.Value:
    return constant(graph, name, list(values), np.int64)
