"""Nodes of our own for a quantization and dequantization, with what they are set to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, EVERY, LINEAR, QDQ
from subbyte.targets.onnx.graph import attribute, prune, put, replace


class Style(StrEnum):
    """How a Q/DQ is written; all of them compute the same.

    INTEGERS: values are clipped to its integers behind the rounding. POOL: the same, with a
    MaxPool of 1×1 behind it. FLOATS: clipped before the rounding. LEAKY: the same, with a LeakyRelu
    of slope 1 before it. SHIFT: as FLOATS, the zero point subtracted behind the dequantization.
    """

    INTEGERS = "integers"
    POOL = "pool"
    FLOATS = "floats"
    LEAKY = "leaky"
    SHIFT = "shift"


@dataclass(frozen=True)
class Qdq:
    """The attributes of a node: y = (clamp(round(x / scale) + zero, low, high) − zero) · scale.

    Attributes:
        scale: Above 0.
        zero_point: 0 … 255.
        low: The smallest integer, uint8.
        high: The largest integer, uint8.
        only_for: The targets for which it is there; empty: all of them.
        style: How it is written.
    """

    scale: float
    zero_point: int
    low: int = 0
    high: int = 255
    only_for: str = EVERY
    style: str = Style.INTEGERS

    @property
    def clips(self) -> bool:
        """Whether it has fewer integers than uint8."""
        return (self.low, self.high) != (0, 255)


def is_qdq(node: ir.Node | None) -> bool:
    """Whether a node is a quantization and dequantization of our own."""
    return node is not None and (node.domain, node.op_type) == (DOMAIN, QDQ)


def qdq_nodes(model: ir.Model) -> list[ir.Node]:
    """All of them, in the graph's order."""
    return [node for node in model.graph if is_qdq(node)]


def write_each(
    model: ir.Model,
    activation: Callable[[ir.Graph, ir.Node], None],
    constant: Callable[[ir.Graph, ir.Node], None],
) -> None:
    """Replace all operators of our own, and the dequantizations of constants.

    A linear layer becomes a MatMul, and an Add of its bias.

    Args:
        model: The model, which has none of our own operators behind it.
        activation: Writes a quantization and dequantization.
        constant: Writes a DequantizeLinear.
    """
    for node in list(model.graph):
        if is_qdq(node):
            activation(model.graph, node)
        elif (node.domain, node.op_type) == (DOMAIN, LINEAR):
            _write_linear(node)
        elif (node.domain, node.op_type) == ("", "DequantizeLinear"):
            constant(model.graph, node)
    prune(model)
    model.opset_imports.pop(DOMAIN, None)


def _write_linear(node: ir.Node) -> None:
    x, weight, *bias = node.inputs
    y = put(node, "MatMul", [x, weight])
    replace(node.outputs[0], put(node, "Add", [y, *bias]) if bias else y)


def qdq_of(value: ir.Value | None) -> Qdq | None:
    """What a value has just been quantized with, by the node that gives it."""
    node = None if value is None else value.producer()
    return settings(node) if node is not None and is_qdq(node) else None


def settings(node: ir.Node) -> Qdq:
    """What a node of our own is set to."""
    return Qdq(
        attribute(node, "scale"),
        attribute(node, "zero_point"),
        attribute(node, "low"),
        attribute(node, "high"),
        attribute(node, "only_for"),
        attribute(node, "style", Style.INTEGERS),
    )


def set_qdq(node: ir.Node, qdq: Qdq) -> None:
    """Give a node the attributes of `qdq`."""
    for name, value in _attributes(qdq).items():
        node.attributes[name] = ir.convenience.convert_attribute(name, value)


def qdq_node(x: ir.Value, qdq: Qdq, highest: ir.Value | None = None) -> ir.Node:
    """A new node, in no graph yet.

    Args:
        x: What it reads.
        qdq: What it computes.
        highest: The highest integer of each channel, uint8; `None`: that of `qdq`.
    """
    inputs = [x] if highest is None else [x, highest]
    node = ir.node(QDQ, inputs, _attributes(qdq), domain=DOMAIN)
    node.outputs[0].dtype = ir.DataType.FLOAT
    node.outputs[0].shape = x.shape
    return node


def nearest(value: float, qdq: Qdq) -> int:
    """The integer of a value; far ones, infinity too, are brought near."""
    rounded = round(min(max(value / qdq.scale, -1e6), 1e6)) + qdq.zero_point
    return min(max(qdq.low, rounded), qdq.high)


def _attributes(qdq: Qdq) -> dict[str, float | int | str]:
    fields: dict[str, float | int | str] = asdict(qdq)
    return {**fields, "scale": float(np.float32(qdq.scale)), "style": str(qdq.style)}
