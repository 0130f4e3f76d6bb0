"""Whether two graphs are one and the same, whatever their values are called."""

from __future__ import annotations

from itertools import zip_longest

import onnx_ir as ir


def are_same(first: ir.Model, second: ir.Model) -> bool:
    """Whether two models have the same nodes in the same order and the same constants."""
    if len(first.graph) != len(second.graph):
        return False
    named: dict[ir.Value, ir.Value] = {}
    for a, b in zip(first.graph, second.graph, strict=True):
        if (a.domain, a.op_type, len(a.outputs)) != (b.domain, b.op_type, len(b.outputs)):
            return False
        if not _same_attributes(a, b):
            return False
        if not all(_same_value(x, y, named) for x, y in zip_longest(a.inputs, b.inputs)):
            return False
        named |= dict(zip(a.outputs, b.outputs, strict=True))
    outputs = zip_longest(first.graph.outputs, second.graph.outputs)
    return all(_same_value(x, y, named) for x, y in outputs)


def _same_attributes(first: ir.Node, second: ir.Node) -> bool:
    given = [{name: a.value for name, a in node.attributes.items()} for node in (first, second)]
    return given[0].keys() == given[1].keys() and all(
        value is given[1][name] or bool(value == given[1][name]) for name, value in given[0].items()
    )


def _same_value(
    first: ir.Value | None, second: ir.Value | None, named: dict[ir.Value, ir.Value]
) -> bool:
    if first is None or second is None:
        return first is second
    if first.producer() is not None:
        return named.get(first) is second
    if first.const_value is None or second.const_value is None:
        return first.name == second.name and first.const_value is second.const_value
    return _same_tensor(first.const_value, second.const_value)


def _same_tensor(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    if first is second:
        return True
    alike = first.dtype == second.dtype and tuple(first.shape) == tuple(second.shape)
    return alike and first.tobytes() == second.tobytes()
