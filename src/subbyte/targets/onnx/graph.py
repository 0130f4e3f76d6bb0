"""Reading and changing an ONNX graph, in the few ways that rewrites need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def array(value: ir.Value | None) -> np.ndarray | None:
    """What a constant holds; `None`: the value is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def number(value: ir.Value | None) -> float | None:
    """What a constant of one number holds."""
    found = array(value)
    return float(found.reshape(())) if found is not None and found.size == 1 else None


def integers(value: ir.Value | None) -> list[int] | None:
    """What a constant of whole numbers holds, in one dimension; `None` of any other value."""
    found = array(value)
    if found is None or found.dtype.kind not in "iub":
        return None
    return [int(n) for n in found.reshape(-1)]


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of a node's attribute.

    Args:
        node: The node.
        name: The attribute's name.
        default: Its value where the node has none.
    """
    found = node.attributes.get(name)
    return default if found is None else found.value


def shape_of(value: ir.Value) -> list[int | str] | None:
    """Lengths of a value's dimensions: numbers, and what else they are called."""
    if value.shape is None:
        return None
    return [n if isinstance(n, int) else str(n.value) for n in value.shape]


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value, which is not an output of the graph."""
    found = readers(value)
    return found[0] if len(found) == 1 and not value.is_graph_output() else None


def constant(graph: ir.Graph, name: str, content: Any, dtype: Any = None) -> ir.Value:
    """A new initializer of a graph.

    Args:
        graph: The graph.
        name: The initializer's, with underscores behind it until it is free.
        content: Numbers or an array.
        dtype: NumPy's; `None`: that of `content`.
    """
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(np.asarray(content, dtype), name=name)
    shape = ir.Shape(tensor.numpy().shape)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape)
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def put(
    before: ir.Node,
    kind: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any] | None = None,
    *,
    shape: Iterable[int | str] | None = None,
    dtype: ir.DataType = ir.DataType.FLOAT,
    domain: str = "",
) -> ir.Value:
    """What a new node gives that stands in front of another.

    Args:
        before: The node in front of which it is put.
        kind: Its operator.
        inputs: What it reads; `None` for what is left out.
        attributes: By name.
        shape: Of what it gives, where it is known: numbers, and names of lengths that vary.
        dtype: Of what it gives.
        domain: Of the operator.
    """
    node = ir.node(kind, inputs, attributes or {}, domain=domain)
    value = node.outputs[0]
    value.dtype = dtype
    value.shape = None if shape is None else ir.Shape(list(shape))
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, node)
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all that reads `old` read `new`, which takes its name where the graph gives it."""
    if new.shape is None:
        new.shape = old.shape
    if old.is_graph_output():
        name = old.name
        old.name, new.name = f"{name}_before", name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def prune(model: ir.Model) -> None:
    """Remove what nothing reads."""
    RemoveUnusedNodesPass()(model)
