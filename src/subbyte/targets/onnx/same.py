"""Whether two graphs are one and the same, whatever their values are called."""

from __future__ import annotations

from itertools import zip_longest

import onnx_ir as ir


def are_same(one: ir.Model, other: ir.Model) -> bool:
    """Whether two models have the same nodes in the same order and the same constants."""
    if len(one.graph) != len(other.graph):
        return False
    named: dict[ir.Value, ir.Value] = {}
    for a, b in zip(one.graph, other.graph, strict=True):
        if (a.domain, a.op_type, len(a.outputs)) != (b.domain, b.op_type, len(b.outputs)):
            return False
        if not _same_attributes(a, b):
            return False
        if not all(_same_value(x, y, named) for x, y in zip_longest(a.inputs, b.inputs)):
            return False
        named |= dict(zip(a.outputs, b.outputs, strict=True))
    outputs = zip_longest(one.graph.outputs, other.graph.outputs)
    return all(_same_value(x, y, named) for x, y in outputs)


def _same_attributes(one: ir.Node, other: ir.Node) -> bool:
    given = [{name: a.value for name, a in node.attributes.items()} for node in (one, other)]
    return given[0].keys() == given[1].keys() and all(
        value is given[1][name] or bool(value == given[1][name]) for name, value in given[0].items()
    )


def _same_value(
    one: ir.Value | None, other: ir.Value | None, named: dict[ir.Value, ir.Value]
) -> bool:
    if one is None or other is None:
        return one is other
    if one.producer() is not None:
        return named.get(one) is other
    if one.const_value is None or other.const_value is None:
        return one.name == other.name and one.const_value is other.const_value
    return _same_tensor(one.const_value, other.const_value)


def _same_tensor(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    if one is other:
        return True
    alike = one.dtype == other.dtype and tuple(one.shape) == tuple(other.shape)
    return alike and one.tobytes() == other.tobytes()
