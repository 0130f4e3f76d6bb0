"""A softmax between two quantized values."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.onnx.graph import readers, replace


def keep_softmax(model: ir.Model) -> None:
    """Put a LeakyRelu of slope 1, which changes no value, between a softmax and its quantization.

    ONNX Runtime computes a softmax between a dequantization and a quantization on integers, with
    less accuracy than that of its 8 bits.
    """
    for node in list(model.graph):
        if node.domain or node.op_type != "Softmax":
            continue
        source, value = node.inputs[0], node.outputs[0]
        made = None if source is None else source.producer()
        quantized = any(reader.op_type == "QuantizeLinear" for reader in readers(value))
        if made is not None and made.op_type == "DequantizeLinear" and quantized:
            parting = ir.node("LeakyRelu", [value], {"alpha": 1.0})
            parting.outputs[0].dtype = ir.DataType.FLOAT
            model.graph.insert_after(node, parting)
            replace(value, parting.outputs[0])
            parting.replace_input_with(0, value)
