"""Convolutions of 1×1 with integer weights alone, beside a transposition of the image."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, put, readers, shape_of
from subbyte.targets.onnx.layout import is_layout

CHANNELS_FIRST, CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def keep_turned_images(model: ir.Model) -> None:
    """Put a MaxPool of 1×1, which changes no value, between such a convolution and a Transpose.

    OpenVINO makes a matrix product of a 1×1 convolution whose input is in float and whose weight is
    integers. It takes every Transpose in front of it for one from channels last to channels first,
    and every one behind it for the way back.
    """
    for node in list(model.graph):
        if node.domain or node.op_type != "Conv" or not _is_concerned(node):
            continue
        if _turns(_made(node.inputs[0]), CHANNELS_FIRST):
            node.replace_input_with(0, _pooled(node, node.inputs[0]))
        for reader in _read(node.outputs[0]):
            if _turns(reader, CHANNELS_LAST):
                reader.replace_input_with(0, _pooled(reader, reader.inputs[0]))


def _is_concerned(node: ir.Node) -> bool:
    """Whether a convolution is of 1×1, its weight integers and its input not."""
    weight = node.inputs[1]
    shape = [] if weight is None else shape_of(weight) or []
    return shape[2:] == [1, 1] and _is_dequantized(weight) and not _is_dequantized(node.inputs[0])


def _is_dequantized(value: ir.Value | None) -> bool:
    made = None if value is None else value.producer()
    while is_layout(made):
        assert made is not None
        made = None if made.inputs[0] is None else made.inputs[0].producer()
    return made is not None and made.op_type == "DequantizeLinear"


def _made(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value, past those that change nothing."""
    made = None if value is None else value.producer()
    return _made(made.inputs[0]) if made is not None and made.op_type == "Identity" else made


def _read(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, past those that change nothing."""
    found: list[ir.Node] = []
    for reader in readers(value):
        found += _read(reader.outputs[0]) if reader.op_type == "Identity" else [reader]
    return found


def _turns(node: ir.Node | None, known: list[int]) -> bool:
    """Whether a node is a Transpose of an image, and not the one that OpenVINO expects."""
    if node is None or node.op_type != "Transpose":
        return False
    return list(attribute(node, "perm", [])) != known


def _pooled(before: ir.Node, value: ir.Value | None) -> ir.Value:
    assert value is not None
    return put(before, "MaxPool", [value], {"kernel_shape": [1, 1]}, shape=shape_of(value))
