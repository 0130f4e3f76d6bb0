"""Names of the values in a file."""

from __future__ import annotations

from collections.abc import Container

import onnx


def names_of(graph: onnx.GraphProto) -> set[str]:
    """What inputs, constants and results are called."""
    given = {value.name for value in (*graph.initializer, *graph.input)}
    return given | {name for node in graph.node for name in node.output}


def free(name: str, taken: Container[str]) -> str:
    """`name`, or with underscores behind it until nothing else is called so."""
    while name in taken:
        name += "_"
    return name
