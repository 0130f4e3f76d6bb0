"""Integer layers without bias whose result has several readers, or is reshaped."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, constant, only_reader, readers, replace, shape_of
from subbyte.targets.onnx.layout import is_layout

CONVOLUTIONS = {"Conv", "ConvTranspose"}
LOWEST = -3e38  # no value is lower


def part_readers(model: ir.Model) -> None:
    """Put a Clip that changes no value behind layers with several readers.

    OpenVINO multiplies the sums of an integer layer by their scale behind it. Where it merges this
    product into one of the readers, that reader takes the sums themselves; but the layer's kernel
    takes in the product of the others, and this reader has the scale twice. A bias keeps both
    apart, and a Clip does. Products with a constant matrix are right as they are, and so is
    SiLU, which is one function for OpenVINO. ONNX Runtime has an int8 kernel for such a convolution
    only if all readers read the same quantized value, and then there is one reader.

    Where the rows that a linear layer gives are reshaped to matrices with as many rows as columns
    or more, OpenVINO puts the scales of the columns behind that, and gives them to the rows. There
    a Clip stands too.
    """
    for node in list(model.graph):
        value = node.outputs[0]
        parted = _is_convolution(node) or _is_product(node)
        several = parted and _count_of_readers(value) > 1 and not _is_silu(value)
        if several or _gives_rows(node):
            _part(model.graph, node, value)


def _is_convolution(node: ir.Node) -> bool:
    """Whether a node is a convolution with integer weights, without bias or with one of zeros."""
    if node.domain or node.op_type not in CONVOLUTIONS or not _is_dequantized(node.inputs[1]):
        return False
    return _is_zero(node.inputs[2] if len(node.inputs) > 2 else None)


def _is_zero(bias: ir.Value | None) -> bool:
    """Whether there is no bias, or a constant one of zeros."""
    made = None if bias is None else bias.producer()
    content = array(bias if made is None else made.inputs[0])
    return bias is None or (content is not None and not content.any())


def _gives_rows(node: ir.Node) -> bool:
    """Whether a node is a linear layer without bias whose rows are reshaped to more dimensions."""
    if node.domain or node.op_type != "MatMul" or not _is_dequantized(node.inputs[1]):
        return False
    value = node.outputs[0]
    reader = only_reader(value)
    if reader is not None and reader.op_type == "Sum" and _is_zero(reader.inputs[1]):
        value = reader.outputs[0]
    return any(_makes_columns(reader) for reader in readers(value)) and _rank(value) == 2


def _makes_columns(node: ir.Node) -> bool:
    """Whether a Reshape's result has as many rows as columns, or more, in the inner dimensions."""
    shape = shape_of(node.outputs[0]) or []
    numbers = [length for length in shape if isinstance(length, int)]
    inner = [length for length in shape[1:-1] if isinstance(length, int)]
    return node.op_type == "Reshape" and bool(inner) and max(inner) >= numbers[-1]


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _is_product(node: ir.Node) -> bool:
    """Whether a node is a product of two activations that are quantized."""
    if node.domain or node.op_type != "MatMul":
        return False
    return all(_is_dequantized(value, of_constant=False) for value in node.inputs)


def _is_dequantized(value: ir.Value | None, of_constant: bool = True) -> bool:
    """Whether a value is dequantized, and moved perhaps: a constant one, or a computed one."""
    made = None if value is None else value.producer()
    while is_layout(made):
        assert made is not None
        made = None if made.inputs[0] is None else made.inputs[0].producer()
    if made is None or made.op_type != "DequantizeLinear":
        return False
    return (array(made.inputs[0]) is not None) == of_constant


def _count_of_readers(value: ir.Value) -> int:
    uses = [use for use in value.uses() if use.node.op_type != "Shape"]
    return len(uses) + value.is_graph_output()


def _is_silu(value: ir.Value) -> bool:
    """Whether all that reads a value is its product with its own sigmoid."""
    sigmoid = next((node for node in readers(value) if node.op_type == "Sigmoid"), None)
    product = next((node for node in readers(value) if node.op_type == "Mul"), None)
    if sigmoid is None or product is None or _count_of_readers(value) != 2:
        return False
    return set(product.inputs) == {value, sigmoid.outputs[0]}


def _part(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    lowest = constant(graph, f"{value.name}_lowest", LOWEST, np.float32)
    parting = ir.node("Clip", [value, lowest])
    parting.outputs[0].dtype = ir.DataType.FLOAT
    graph.insert_after(node, parting)
    replace(value, parting.outputs[0])
    parting.replace_input_with(0, value)
