"""The same grid again behind operators that only move values."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, number
from subbyte.targets.onnx.grids import Grid, grid_node, is_grid, settings

# Operators whose results hold values of their first input, and no others. One that keeps a single
# one of a dimension (Gather) is not among them: it is read as the whole is.
MOVES = {
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


def repeat_grids(model: ir.Model) -> None:
    """Put a tensor on its grid again behind each operator that only moves its values.

    It changes no value, and ONNX Runtime moves integers only between a dequantization and a
    quantization.
    """
    grids: dict[ir.Value, Grid] = {}
    for node in list(model.graph):
        if is_grid(node):
            grid = settings(node)
            grids[node.outputs[0]] = Grid(grid.scale, grid.zero_point)
            continue
        found = {grids.get(source) for source in _moved(node)}
        (grid_of_all,) = found if len(found) == 1 else (None,)
        if grid_of_all is None:
            continue
        for value in node.outputs[:1] if node.op_type == "MaxPool" else node.outputs:
            _repeat(node, value, grid_of_all, grids)


def _moved(node: ir.Node) -> list[ir.Value]:
    """The tensors whose values a node moves; nothing, if it does something else."""
    sources = [value for value in node.inputs if value is not None]
    if node.domain or not sources:
        return []
    if node.op_type == "Concat":
        return sources
    if node.op_type == "Pad":
        filled = number(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
        if attribute(node, "mode", "constant") == "constant" and filled != 0:
            return []
    return sources[:1] if node.op_type in MOVES else []


def _repeat(node: ir.Node, value: ir.Value, grid: Grid, grids: dict[ir.Value, Grid]) -> None:
    uses, graph = list(value.uses()), node.graph
    if not (uses or value.is_graph_output()):
        return
    assert isinstance(graph, ir.Graph)
    repeated = grid_node(value, grid)
    graph.insert_after(node, repeated)
    new = repeated.outputs[0]
    if value.is_graph_output():
        name = value.name
        value.name, new.name = f"{name}_before", name
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = new
    for use in uses:
        use.node.replace_input_with(use.idx, new)
    grids[value] = grids[new] = grid
