"""What no ONNX file may lack: values that something gives, and what each operator must have."""

from __future__ import annotations

from pathlib import Path

import onnx.defs
import onnx_ir as ir

from subbyte.errors import SubbyteError

WINDOWED = ("AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool")
# Attributes of windows: how many numbers each has for a dimension.
WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 2}


def check_opset(opset: int, oldest: int, path: Path) -> None:
    """Refuse a file of an opset that is too old, or later than the package onnx knows.

    Args:
        opset: Of the file; 0 where it names none.
        oldest: The first one that is read.
        path: The file.
    """
    latest = onnx.defs.onnx_opset_version()
    if not opset:
        raise SubbyteError(f"{path} names no opset, the file is broken: export it again")
    if opset < oldest:
        raise SubbyteError(
            f"{path} is of opset {opset}: convert it with onnx.version_converter to opset "
            f"{oldest} or later"
        )
    if opset > latest:
        raise SubbyteError(
            f"{path} is of opset {opset}, and onnx {onnx.__version__} knows those up to {latest}: "
            "install a later onnx, or export the model with an earlier opset"
        )


def check_values(graph: ir.Graph, path: Path) -> None:
    """Refuse a graph in which a node or an output is to read what nothing gives."""
    for node in graph:
        for value in node.inputs:
            if value is not None and not _is_given(value):
                raise _broken(path, f"{_named(node)} reads '{value.name}', which nothing gives")
    for value in graph.outputs:
        if not _is_given(value):
            raise _broken(path, f"its output '{value.name}' is given by nothing")


def check_node(node: ir.Node, opset: int, path: Path) -> None:
    """Refuse a node of the standard that lacks an input or an attribute.

    Args:
        node: The node.
        opset: Of the file.
        path: The file.
    """
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:  # an operator that the opset does not have yet
        return
    if len(node.inputs) < schema.min_input:
        raise _broken(
            path, f"{_named(node)} has {len(node.inputs)} of {schema.min_input} inputs or more"
        )
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in node.attributes:
            raise _broken(path, f"{_named(node)} lacks the attribute {name}")
    _check_windows(node, path)


def _check_windows(node: ir.Node, path: Path) -> None:
    """Refuse windows whose lengths, steps and padding are not of the same dimensions."""
    if node.op_type not in WINDOWED:
        return
    given = {name: len(node.attributes[name].value) for name in WINDOWS if name in node.attributes}
    ranks = {name: count / WINDOWS[name] for name, count in given.items()}
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is not None and weight.shape is not None:
        ranks["the weight"] = len(weight.shape) - 2
    if len(set(ranks.values())) > 1:
        said = ", ".join(f"{name} has {given.get(name, n):g}" for name, n in ranks.items())
        raise _broken(path, f"windows of {_named(node)} are of several dimensions ({said})")


def sorted_or_refused(model: ir.Model, path: Path) -> None:
    """Put a graph's nodes into an order in which they can run; refuse one that has none."""
    try:
        model.graph.sort()
    except ValueError as error:
        raise _broken(path, "its nodes read each other in a circle") from error


def _is_given(value: ir.Value) -> bool:
    held = value.is_initializer() or value.const_value is not None
    return held or value.producer() is not None or value.is_graph_input()


def _named(node: ir.Node) -> str:
    return f"node '{node.name}' ({node.op_type})" if node.name else f"a node {node.op_type}"


def _broken(path: Path, why: str) -> SubbyteError:
    return SubbyteError(f"{path} is broken, because {why}: export it again")
