"""Nodes of our own for a quantization and dequantization, with what they are set to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, EVERY, GRID
from subbyte.targets.onnx.graph import attribute


class Style(StrEnum):
    """How a grid is written; all of them compute the same.

    INTEGERS: values are clipped to the grid's integers behind the rounding. POOL: the same, with a
    MaxPool of 1×1 behind it. FLOATS: clipped before the rounding. LEAKY: the same, with a LeakyRelu
    of slope 1 before it. SHIFT: as FLOATS, the zero point subtracted behind the dequantization.
    """

    INTEGERS = "integers"
    POOL = "pool"
    FLOATS = "floats"
    LEAKY = "leaky"
    SHIFT = "shift"


@dataclass(frozen=True)
class Grid:
    """What a node is set to: y = (clamp(round(x / scale) + zero, low, high) − zero) · scale.

    All integers are uint8. only_for: the targets for which it is there; empty: all of them.
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


def is_grid(node: ir.Node | None) -> bool:
    """Whether a node is a quantization and dequantization of our own."""
    return node is not None and (node.domain, node.op_type) == (DOMAIN, GRID)


def grid_nodes(model: ir.Model) -> list[ir.Node]:
    """All of them, in the graph's order."""
    return [node for node in model.graph if is_grid(node)]


def grid_of(value: ir.Value | None) -> Grid | None:
    """The grid that a value is on because a node right in front puts it there."""
    node = None if value is None else value.producer()
    return settings(node) if node is not None and is_grid(node) else None


def settings(node: ir.Node) -> Grid:
    """What a node of our own is set to."""
    return Grid(
        attribute(node, "scale"),
        attribute(node, "zero_point"),
        attribute(node, "low"),
        attribute(node, "high"),
        attribute(node, "only_for"),
        attribute(node, "style", Style.INTEGERS),
    )


def set_grid(node: ir.Node, grid: Grid) -> None:
    """Set a node to what `grid` says."""
    for name, value in _attributes(grid).items():
        node.attributes[name] = ir.convenience.convert_attribute(name, value)


def grid_node(x: ir.Value, grid: Grid, highest: ir.Value | None = None) -> ir.Node:
    """A new node, in no graph yet. highest: uint8, the highest integer of each channel."""
    inputs = [x] if highest is None else [x, highest]
    node = ir.node(GRID, inputs, _attributes(grid), domain=DOMAIN)
    node.outputs[0].dtype = ir.DataType.FLOAT
    node.outputs[0].shape = x.shape
    return node


def nearest(value: float, grid: Grid) -> int:
    """The integer of a value on a grid; far ones, infinity too, are brought near."""
    rounded = round(min(max(value / grid.scale, -1e6), 1e6)) + grid.zero_point
    return min(max(grid.low, rounded), grid.high)


def _attributes(grid: Grid) -> dict[str, float | int | str]:
    fields: dict[str, float | int | str] = asdict(grid)
    return {**fields, "scale": float(np.float32(grid.scale)), "style": str(grid.style)}
