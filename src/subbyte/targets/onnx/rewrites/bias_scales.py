"""Scales of biases as products, which runtimes compute when they load a file.

A bias has the scale of its layer's sums: scale of the input · scale of the weight. Both stand in
the file already, so that their product need not be held for each channel as well.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, put

LAYERS = {"Conv", "ConvTranspose", "Gemm"}
LEAST = 16  # channels; of fewer the product takes more bytes than it saves


def multiply_bias_scales(model: ir.Model) -> None:
    """Write the scale of a bias as a product wherever it is just that, bit for bit."""
    for node in list(model.graph):
        if node.op_type in LAYERS and len(node.inputs) > 2:
            x, w, b = (_dequantization(value) for value in node.inputs[:3])
            if x is not None and w is not None and b is not None:
                _multiply(x, w, b)


def _dequantization(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _multiply(x: ir.Node, w: ir.Node, b: ir.Node) -> None:
    """Let the bias's dequantization read the product of the scales of `x` and `w`."""
    of_x, of_w, held = (array(node.inputs[1]) for node in (x, w, b))
    if of_x is None or of_w is None or held is None:
        return
    product = of_x.astype(np.float32) * of_w.astype(np.float32)
    if held.size < LEAST or product.shape != held.shape or product.tobytes() != held.tobytes():
        return
    scale, graph = b.inputs[1], b.graph
    assert scale is not None
    assert isinstance(graph, ir.Graph)
    new = put(b, "Mul", [x.inputs[1], w.inputs[1]], shape=held.shape, dtype=ir.DataType.FLOAT)
    b.replace_input_with(1, new)
    if not scale.uses() and not scale.is_graph_output():
        del graph.initializers[str(scale.name)]
