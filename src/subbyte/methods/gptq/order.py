"""The order of a region's layers, and what has to be known between one and the next.

All of it is read from the float model's graph. A simulation's graph has nodes of the same names,
and quantizers beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import fx

from subbyte.graph.float_model import FloatModel
from subbyte.graph.layers import carries_data
from subbyte.graph.operators import ADD, A, is_number, tensor_inputs
from subbyte.placement.placement import PlacedLayer, Placement, node_names

KEEPS_VALUES = {A.dropout.default, A.clone.default, A.contiguous.default, A.alias.default}


@dataclass(frozen=True)
class Operand:
    """What a node reads.

    Attributes:
        reader: The node.
        position: Which of its arguments.
    """

    reader: fx.Node
    position: int

    @property
    def node(self) -> fx.Node:
        """The node that gives it."""
        return self.within(self.reader)

    def within(self, reader: fx.Node) -> fx.Node:
        """The node that gives it to the same reader in another graph, such as a quantizer."""
        source = reader.args[self.position]
        assert isinstance(source, fx.Node)
        return source


class LayerOrder:
    """Which layers of a region wait for their integers, and which nodes are computable already.

    Attributes:
        region: The region.
        graph: Its graph in the float model.
        nodes: Name → node.
        layers: The layers with a quantized weight in the graph's order; of several that share one,
            the first.
    """

    def __init__(self, float_model: FloatModel, placement: Placement, region: str) -> None:
        self.region = region
        self.graph = float_model.region(region).graph
        self.nodes = node_names(self.graph)
        self._place = {node: i for i, node in enumerate(self.graph.nodes)}
        self._data = {n for n in carries_data(self.graph) if not is_number(n) and n.op != "output"}
        self._batch = _length(next(n for n in self.graph.nodes if n.op == "placeholder"))
        self.layers = self._first_of_each_weight(placement)
        self._waiting = {self.nodes[layer.node] for layer in self.layers}
        self._find_ready()

    def settle(self, layer: PlacedLayer) -> None:
        """Note that a layer has its integers: what waits for it alone can be computed."""
        self._waiting.discard(self.nodes[layer.node])
        self._find_ready()

    def frontier(self) -> list[fx.Node]:
        """The nodes to keep: computable, read by what is not, and with an entry for each image."""
        needed: list[fx.Node] = []
        for node in self.graph.nodes:
            if node in self._ready and self._is_read_later(node):
                needed += [n for n in self._keepable(node) if n not in needed]
        return needed

    def residual_branch(self, layer: PlacedLayer) -> Operand | None:
        """What is added to a layer's output, where it can be computed before the layer."""
        node = self.nodes[layer.node]
        while True:
            readers = [user for user in node.users if user in self._data]
            if len(readers) != 1:
                return None
            reader = readers[0]
            if reader.target in ADD and not reader.kwargs:
                others = [i for i, value in enumerate(reader.args) if value is not node]
                if len(others) != 1 or not isinstance(reader.args[others[0]], fx.Node):
                    return None
                branch = Operand(reader, others[0])
                known = branch.node in self._ready and _shape(branch.node) == _shape(node)
                return branch if known else None
            if reader.target not in KEEPS_VALUES:
                return None
            node = reader

    def sources(self, wanted: Iterable[fx.Node], known: Collection[str]) -> list[fx.Node]:
        """The nodes that some nodes are computed from.

        Args:
            wanted: The nodes that are to be computed.
            known: The names of the nodes whose values are known.
        """
        found: list[fx.Node] = []
        visited: set[fx.Node] = set()
        stack = list(wanted)
        while stack:
            node = stack.pop()
            if node in visited:
                continue
            visited.add(node)
            if node.name in known:
                found.append(node)
            else:
                stack += node.all_input_nodes
        return sorted(found, key=lambda n: self._place[n])

    def _first_of_each_weight(self, placement: Placement) -> list[PlacedLayer]:
        weighted = [x for x in placement.layers if x.region == self.region and x.weight is not None]
        found: dict[str | None, PlacedLayer] = {}
        for layer in sorted(weighted, key=lambda x: self._place[self.nodes[x.node]]):
            found.setdefault(layer.weight, layer)
        return list(found.values())

    def _find_ready(self) -> None:
        self._ready: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node not in self._data or node in self._waiting:
                continue
            if all(n in self._ready for n in tensor_inputs(node) if n in self._data):
                self._ready.add(node)

    def _is_read_later(self, node: fx.Node) -> bool:
        """Whether what is not computable yet reads a node."""
        return any(user in self._data and user not in self._ready for user in node.users)

    def _keepable(self, node: fx.Node) -> list[fx.Node]:
        """A node, or the next ones in front of it that have an entry for each image."""
        if node.op == "placeholder" or _length(node) == self._batch:
            return [node]
        return [k for n in tensor_inputs(node) if n in self._data for k in self._keepable(n)]


def _length(node: fx.Node) -> str | None:
    """The first dimension of a node's value, as a symbol or number; `None`: not a tensor."""
    value = node.meta.get("val")
    return str(value.shape[0]) if isinstance(value, torch.Tensor) and value.dim() else None


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    return str(getattr(value, "shape", None))
