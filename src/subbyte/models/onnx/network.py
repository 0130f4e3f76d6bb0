"""What an ONNX file holds, as plain values: nodes in their order, and constants by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Lengths = tuple[int | None, ...]  # None: any length


@dataclass(frozen=True)
class Node:
    """One operator of the file.

    Attributes:
        operator: What it computes, as "Conv".
        name: By which messages call it; the file's name, or one made of the operator and its place.
        inputs: Names of what it reads; an empty name was left out.
        outputs: Names of what it gives; an empty name is not read.
        attributes: Its attributes by name.
        opset: Version of the operators.
        scope: Qualified name of the module that it belongs to.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 0
    scope: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is where the file leaves it out."""
        return self.attributes.get(name, default)

    def __str__(self) -> str:
        return f"'{self.name}' ({self.operator})"


@dataclass(frozen=True)
class Input:
    """An input of the file that is not a constant.

    Attributes:
        name: Its name.
        dtype: Its type, in numpy's words.
        shape: Its lengths; `None`: of any rank.
        batch: What the file calls its first length, where it has a name for it.
    """

    name: str
    dtype: str
    shape: Lengths | None
    batch: str = ""


@dataclass(frozen=True)
class Network:
    """A file's graph.

    Attributes:
        inputs: What it is called with.
        outputs: Names of what it gives.
        nodes: Its operators, each behind what it reads.
        ranks: How many dimensions each output has, where the file says it.
        constants: Weights and other constants by name, floats in float32.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    ranks: tuple[int | None, ...] = ()

    def with_nodes(
        self, nodes: list[Node], constants: Mapping[str, np.ndarray] | None = None
    ) -> Network:
        """The same with other nodes, without those and the constants that nothing reads.

        Args:
            nodes: The nodes.
            constants: All of them; `None`: those that there are.
        """
        known = self.constants if constants is None else constants
        return pruned(replace(self, nodes=tuple(nodes), constants=known))

    def joined(self, merged: Mapping[str, Node], constants: Mapping[str, np.ndarray]) -> Network:
        """The same where single nodes do what several did.

        Args:
            merged: What such a node gives → the node; it stands where that was given before.
            constants: All of them.
        """
        nodes = [merged.get(node.outputs[0], node) for node in self.nodes]
        return self.with_nodes(nodes, constants)

    def readers(self) -> Counter[str]:
        """How often each value is read; an output of the network counts as read."""
        counts = Counter(name for node in self.nodes for name in node.inputs)
        counts.update(self.outputs)
        return counts

    def producers(self) -> dict[str, Node]:
        """Which node gives a value."""
        return {name: node for node in self.nodes for name in node.outputs if name}


def pruned(network: Network) -> Network:
    """A network without nodes and constants that no output depends on."""
    needed, kept = set(network.outputs), []
    for node in reversed(network.nodes):
        if needed.intersection(node.outputs):
            read = tuple(name if name in needed else "" for name in node.outputs)
            kept.append(replace(node, outputs=read))
            needed.update(name for name in node.inputs if name)
    constants = {name: value for name, value in network.constants.items() if name in needed}
    return replace(network, nodes=tuple(kept[::-1]), constants=constants)
