"""The name of a single output."""

from __future__ import annotations

import onnx_ir as ir

OUTPUT = "output"


def rename_output(model: ir.Model) -> None:
    """Call a single output "output", as runtimes show it to their users."""
    graph = model.graph
    if len(graph.outputs) != 1:
        return
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    taken = {value.name for value in values if value is not graph.outputs[0]}
    name = OUTPUT
    while name in taken:
        name += "_"
    graph.outputs[0].name = name
