"""Convolutions of 1×1 that leave out positions and have padding."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, put, shape_of


def keep_strides(model: ir.Model) -> None:
    """Put a MaxPool of 1×1, which changes no value, before padded 1×1 convolutions with strides.

    OpenVINO moves the stride of a 1×1 convolution into the layer before it, as if there were no
    padding, and so gives another number of positions; not where a pooling stands between. In the
    file for all, ONNX Runtime then computes such a convolution in float.
    """
    for node in list(model.graph):
        if not node.domain and node.op_type == "Conv" and _is_concerned(node):
            node.replace_input_with(0, _pooled(node))


def _is_concerned(node: ir.Node) -> bool:
    source, weight = node.inputs[:2]
    shape = None if weight is None else shape_of(weight)
    kernel = attribute(node, "kernel_shape") or (shape or [])[2:]
    made = None if source is None else source.producer()
    padded = any(attribute(node, "pads", [])) or (made is not None and made.op_type == "Pad")
    return padded and set(kernel) == {1} and max(attribute(node, "strides", [1])) > 1


def _pooled(node: ir.Node) -> ir.Value:
    source = node.inputs[0]
    assert source is not None
    kernel = {"kernel_shape": [1] * len(attribute(node, "strides"))}
    return put(node, "MaxPool", [source], kernel, shape=shape_of(source))
