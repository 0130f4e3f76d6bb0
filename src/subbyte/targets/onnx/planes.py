"""Integers of 2, 3, 5, 6 or 7 bits, and the nodes that unpack them to int8.

Of 5 bits and more, the lower 4 of a value are uint4, which a Cast makes int8. What is left, 1 to 3
bits a value, is looked up in a table. Its row i has the values that byte i holds:

    bytes → Cast → Gather of the table → Reshape

Of 3 bits, a byte has 2 bits of four values and a uint4 has the third of each. A row number is both:
byte + 256 · uint4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, constant, put

WIDTHS = (2, 3, 5, 6, 7)
INT8, INT32 = ir.DataType.INT8, ir.DataType.INT32
# What is unpacked together is cut into its weights again, which costs time: only small weights are.
TOGETHER = 2**18


@dataclass(frozen=True, eq=False)
class Levels:
    """What one weight holds.

    Attributes:
        before: The node in front of which it has to be unpacked.
        integers: uint8, from 0 on.
    """

    before: ir.Node
    integers: np.ndarray


def unpacked(graph: ir.Graph, width: int, weights: Sequence[Levels]) -> Iterator[ir.Value]:
    """Put weights of one width into a graph.

    Args:
        graph: The graph.
        width: Bits of a value: one of `WIDTHS`.
        weights: In the order of the nodes in front of which they are unpacked.

    Yields:
        The int8 values of each weight, from −2^(width − 1) on.
    """
    tables: dict[int, ir.Value] = {}
    for number, part in enumerate(_parts(weights)):
        yield from _Unpacking(graph, width, f"bits{width}_{number}", tables).weights(part)


def shared_bytes(widths: Collection[int], node: int, held: int) -> float:
    """What the widths take in a file beside the values, about.

    Args:
        widths: Those that are used.
        node: What a node takes.
        held: What a constant takes beside its content.
    """
    halves = {_halves(width) for width in widths}
    tables = {(low, min(high, 2)) for low, high in halves}
    rows = sum(256 * (8 // bits) + held for _, bits in tables)
    return rows + sum((6 + high) * node + (2 + (high == 3)) * held for _, high in halves)


def _halves(width: int) -> tuple[int, int]:
    """How many bits of a value are in a uint4, and how many are looked up."""
    return (4, width - 4) if width > 4 else (0, width)


def _parts(weights: Sequence[Levels]) -> Iterator[list[Levels]]:
    part: list[Levels] = []
    size = 0
    for weight in weights:
        size += weight.integers.size
        if part and size > TOGETHER:
            yield part
            part, size = [], weight.integers.size
        part.append(weight)
    yield part


@dataclass(frozen=True)
class _Unpacking:
    """Where weights of one width are unpacked together.

    Attributes:
        graph: The graph.
        width: Bits of a value.
        name: What new constants are called.
        tables: Bits that are looked up → the table, where it is there already.
    """

    graph: ir.Graph
    width: int
    name: str
    tables: dict[int, ir.Value] = field(default_factory=dict)

    def weights(self, part: Sequence[Levels]) -> list[ir.Value]:
        """The int8 values of each."""
        before = part[0].before
        of_byte = 8 // min(_halves(self.width)[1], 2)
        sizes = [weight.integers.size for weight in part]
        rest = -sum(sizes) % of_byte  # until the last byte is full
        if len(part) == 1 and not rest:
            return [self.values(before, part[0].integers)]
        every = [*(weight.integers.reshape(-1) for weight in part), np.zeros(rest, np.uint8)]
        value = self.values(before, np.concatenate(every))
        sizes += [rest] if rest else []
        lengths = constant(self.graph, f"{self.name}_sizes", sizes, np.int64)
        split = ir.node("Split", [value, lengths], {"axis": 0}, num_outputs=len(sizes))
        self.graph.insert_before(before, split)
        for number, (output, size) in enumerate(zip(split.outputs, sizes, strict=True)):
            output.name, output.dtype = f"{self.name}_{number}", INT8
            output.shape = ir.Shape([size])
        outputs = split.outputs[: len(part)]
        return [
            self.shaped(weight.before, output, weight.integers.shape)
            for weight, output in zip(part, outputs, strict=True)
        ]

    def values(self, before: ir.Node, levels: np.ndarray) -> ir.Value:
        """All levels, less what the table's are less, in their shape."""
        low, high = _halves(self.width)
        rows = [self.table(before), self.row_numbers(before, levels.reshape(-1) >> low)]
        length = 8 // min(high, 2)
        shape = (levels.size // length, length)
        found = put(before, "Gather", rows, shape=shape, dtype=INT8)
        found = self.shaped(before, found, levels.shape)
        if not low:
            return found
        held = constant(self.graph, f"{self.name}_low", levels & 15, ml_dtypes.uint4)
        lower = put(before, "Cast", [held], {"to": INT8}, shape=levels.shape, dtype=INT8)
        return put(before, "Add", [lower, found], shape=levels.shape, dtype=INT8)

    def row_numbers(self, before: ir.Node, levels: np.ndarray) -> ir.Value:
        """The row of the table for each few levels, which have as many bits as are looked up."""
        high = _halves(self.width)[1]
        content = _joined(levels, min(high, 2), 8)
        shape = content.shape
        held = constant(self.graph, f"{self.name}_bytes", content)
        number = put(before, "Cast", [held], {"to": INT32}, shape=shape, dtype=INT32)
        if high < 3:
            return number
        thirds = _joined(levels >> 2, 1, 4)
        more = constant(self.graph, f"{self.name}_thirds", thirds, ml_dtypes.uint4)
        times = _shared(self.graph, "rows_of_bytes", 256, np.int32)
        value = put(before, "Cast", [more], {"to": INT32}, shape=shape, dtype=INT32)
        value = put(before, "Mul", [value, times], shape=shape, dtype=INT32)
        return put(before, "Add", [number, value], shape=shape, dtype=INT32)

    def table(self, before: ir.Node) -> ir.Value:
        """The values of each row, which are made once for a file."""
        low, high = _halves(self.width)
        if high not in self.tables:
            bits = min(high, 2)
            rows = _fields(256, bits, 8 // bits) * 2**low - 2 ** (low + bits - 1)
            table = _shared(self.graph, f"table_{bits}_{low}", rows, np.int8)
            if high == 3:
                thirds = (_fields(16, 1, 4) * 2 ** (low + 2) - 2 ** (low + 1))[:, None]
                more = _shared(self.graph, f"table_3_{low}", thirds, np.int8)
                table = put(before, "Add", [table, more], shape=(16, 256, 4), dtype=INT8)
                table = self.shaped(before, table, (16 * 256, 4))
            self.tables[high] = table
        return self.tables[high]

    def shaped(self, before: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """A value in another shape."""
        name = "shape_" + "x".join(map(str, shape))
        lengths = _shared(self.graph, name, shape, np.int64)
        return put(before, "Reshape", [value, lengths], shape=shape, dtype=INT8)


def _joined(levels: np.ndarray, bits: int, unit: int) -> np.ndarray:
    """The lowest bits of levels, as many to a unit of bits as fit, the first one lowest."""
    fields = (levels & 2**bits - 1).reshape(-1, unit // bits)
    found = np.zeros(len(fields), np.uint8)
    for place in range(unit // bits):
        found |= fields[:, place] << bits * place
    return found


def _fields(count: int, bits: int, places: int) -> np.ndarray:
    """What each number below `count` holds, in so many places of so many bits."""
    fields: np.ndarray = np.arange(count)[:, None] >> bits * np.arange(places) & 2**bits - 1
    return fields


def _shared(graph: ir.Graph, name: str, content: Any, dtype: Any) -> ir.Value:
    """A constant that all who ask for it share."""
    there, wanted = graph.initializers.get(name), np.array(content, dtype)
    held = array(there)
    if there is None or held is None or held.dtype != dtype or not np.array_equal(held, wanted):
        return constant(graph, name, wanted)
    return there
