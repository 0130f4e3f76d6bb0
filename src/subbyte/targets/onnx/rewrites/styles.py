"""How each Q/DQ is written, so that runtimes neither leave it out nor stumble over it."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from subbyte.targets.onnx.graph import array, only_reader, prune, readers
from subbyte.targets.onnx.qdq import Style, qdq_node, qdq_nodes, set_qdq, settings

# What OpenVINO computes along with the convolution before it, without another rounding.
LINEAR = {"Add", "Div", "Mul", "Neg", "Sub"}
LIMITS = {"Clip", "Relu"}


def stop_fusions(model: ir.Model) -> None:
    """Put a barrier behind the Q/DQ of convolutions that are added to something.

    OpenVINO computes convolution and addition in one kernel and drops the rounding between them,
    where nothing else stands there: a MaxPool of 1 × 1, which ONNX Runtime does not mind.
    """
    for node in qdq_nodes(model):
        if _is_added_convolution(node):
            set_qdq(node, replace(settings(node), style=Style.POOL))


def style_for_openvino(model: ir.Model) -> None:
    """Write Q/DQ as OpenVINO is fastest with it.

    It clips in floats. Where a product with a factor reads a Q/DQ with a zero point, that is
    subtracted behind the dequantization. A convolution in front of an addition gets a LeakyRelu of
    slope 1 as a barrier; but none where another one reads it too, and its rounding stays anyway.
    """
    for node in qdq_nodes(model):
        qdq, value = settings(node), node.outputs[0]
        plain = Style.FLOATS if qdq.clips else Style.INTEGERS
        products = [reader for reader in readers(value) if reader.op_type == "Mul"]
        if products and qdq.zero_point:
            source, *rest = node.inputs
            assert source is not None
            new = qdq_node(source, replace(qdq, style=Style.SHIFT), *rest)
            model.graph.insert_before(node, new)
            for product in products:
                for i, read in enumerate(product.inputs):
                    if read is value:
                        product.replace_input_with(i, new.outputs[0])
        alone = len(readers(value)) + value.is_graph_output() == 1
        added = _is_added_convolution(node) or _is_shifted_convolution(node)
        style = Style.LEAKY if added and alone else plain
        set_qdq(node, replace(qdq, style=style))
    prune(model)


def _is_added_convolution(node: ir.Node) -> bool:
    """Whether a 2-d convolution's result is quantized straight into an addition."""
    source = node.inputs[0]
    made = None if source is None else source.producer()
    return _is_plane(source) and made is not None and made.op_type == "Conv" and _is_added(node)


def _is_shifted_convolution(node: ir.Node) -> bool:
    """Whether the same, but with numbers added to or multiplied with the result, past a ReLU."""
    value, linear = node.inputs[0], False
    while value is not None:
        made = value.producer()
        if made is None or made.domain or (only_reader(value) is None and made.op_type != "Conv"):
            return False
        if made.op_type == "Conv":
            return linear and _is_plane(value) and _is_added(node)
        computed = [x for x in made.inputs if x is not None and array(x) is None]
        if made.op_type not in LINEAR | LIMITS or len(computed) != 1:
            return False
        linear = linear or made.op_type in LINEAR
        value = computed[0]
    return False


def _is_plane(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4


def _is_added(node: ir.Node) -> bool:
    return any(reader.op_type == "Add" for reader in readers(node.outputs[0]))
