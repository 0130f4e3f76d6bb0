"""How each grid is written, so that runtimes neither leave it out nor stumble over it."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from subbyte.targets.onnx.graph import prune, readers
from subbyte.targets.onnx.grids import Style, grid_node, grid_nodes, set_grid, settings


def stop_fusions(model: ir.Model) -> None:
    """Put a barrier behind grids of convolutions that are added to something.

    OpenVINO computes convolution and addition in one kernel and drops the rounding between them,
    where nothing else stands there: a MaxPool of 1 × 1, which ONNX Runtime does not mind.
    """
    for node in grid_nodes(model):
        if _is_added_convolution(node):
            set_grid(node, replace(settings(node), style=Style.POOL))


def style_for_openvino(model: ir.Model) -> None:
    """Write grids as OpenVINO is fastest with them.

    It clips in floats. Where a product with a factor reads a grid that has a zero point, that is
    subtracted behind the dequantization. A convolution in front of an addition gets a LeakyRelu of
    slope 1 as a barrier; but none where another one reads it too, and its rounding stays anyway.
    """
    for node in grid_nodes(model):
        grid, value = settings(node), node.outputs[0]
        plain = Style.FLOATS if grid.clips else Style.INTEGERS
        products = [reader for reader in readers(value) if reader.op_type == "Mul"]
        if products and grid.zero_point:
            source, *rest = node.inputs
            assert source is not None
            new = grid_node(source, replace(grid, style=Style.SHIFT), *rest)
            model.graph.insert_before(node, new)
            for product in products:
                for i, read in enumerate(product.inputs):
                    if read is value:
                        product.replace_input_with(i, new.outputs[0])
        alone = len(readers(value)) + value.is_graph_output() == 1
        style = Style.LEAKY if _is_added_convolution(node) and alone else plain
        set_grid(node, replace(grid, style=style))
    prune(model)


def _is_added_convolution(node: ir.Node) -> bool:
    """Whether a grid puts a 2-d convolution's result straight into an addition."""
    source = node.inputs[0]
    made = None if source is None else source.producer()
    if source is None or made is None or made.op_type != "Conv":
        return False
    plane = source.shape is not None and len(source.shape) == 4
    return plane and any(reader.op_type == "Add" for reader in readers(node.outputs[0]))
