"""What a file's weights take in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import numpy_helper

UNPACKING = {"Add", "Cast", "Gather", "Mul", "Reshape", "Split"}


def whole_bytes(path: Path) -> int:
    """The size that an ONNX file of ours would have, were its weights int8 as they are unpacked."""
    graph = onnx.load(str(path), load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    parts = _Parts(made, {held.name: held for held in graph.initializer})
    size: int = path.stat().st_size
    unpacking: set[str] = set()
    for name in {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}:
        found = parts.unpacking(name)
        if name in made and found is not None:
            size += parts.values(name)
            unpacking |= found
    nodes = {id(made[name]): made[name] for name in unpacking if name in made}
    held = [parts.constants[name] for name in unpacking if name in parts.constants]
    taken: int = sum(part.ByteSize() for part in (*nodes.values(), *held))
    return size - taken


@dataclass(frozen=True)
class _Parts:
    """A graph's nodes, by the values that they give, and its constants."""

    made: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]

    def unpacking(self, name: str) -> set[str] | None:
        """All that a value is unpacked from, and itself; `None`: it is no weight."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            name = waiting.pop()
            node = self.made.get(name)
            if name in found:
                continue
            if node is not None and node.op_type in UNPACKING:
                waiting += node.input
            elif name not in self.constants:
                return None
            found.add(name)
        return found

    def values(self, name: str) -> int:
        """How many values an unpacked weight has."""
        node = self.made[name]
        if node.op_type == "Reshape":
            return prod(numpy_helper.to_array(self.constants[node.input[1]]).tolist())
        source = node.input[0]
        if source in self.constants:  # int4
            return prod(self.constants[source].dims)
        return self.values(source)
