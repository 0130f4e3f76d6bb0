"""The order of a region's layers, and what has to be known between one and the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from subbyte.graph.layers import carries_data
from subbyte.graph.operators import ADD, A, is_number, tensor_inputs
from subbyte.placement.simulation import Captured, Layer, QuantizedTensor

KEEPING = {A.dropout.default, A.clone.default, A.contiguous.default, A.alias.default}


class Order:
    """Which layers of a region wait for their fit, and which nodes are computable already."""

    def __init__(self, captured: Captured, region: str) -> None:
        self.region = region
        self.graph = captured.region(region).graph
        self.weights = [t for t, _ in captured.quantizers("weight") if t.region == region]
        names = {node.name: node for node in self.graph.nodes}
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        self.nodes = {
            layer.name: names[layer.node]
            for layer in captured.layers
            if layer.region == region and layer.weight is not None
        }
        self.data = {n for n in carries_data(self.graph) if not is_number(n) and n.op != "output"}
        self.batch = _length(next(n for n in self.graph.nodes if n.op == "placeholder"))
        # A weight that several layers share is fitted in the first of them.
        once: dict[str | None, Layer] = {}
        for layer in sorted(
            (c for c in captured.layers if c.region == region and c.weight is not None),
            key=lambda c: place[names[c.node]],
        ):
            once.setdefault(layer.weight, layer)
        self.layers = list(once.values())
        self.waiting = {self.nodes[layer.name] for layer in self.layers}
        self._find_ready()

    def weight(self, layer: Layer) -> QuantizedTensor:
        """A layer's weight."""
        return next(tensor for tensor in self.weights if tensor.module == layer.weight)

    def fitted(self, layer: Layer) -> None:
        """A layer is, so that what waits for it alone can be computed."""
        self.waiting.discard(self.nodes[layer.name])
        self._find_ready()

    def frontier(self) -> list[fx.Node]:
        """The nodes to keep: computable, read by what is not, and with an entry for each image."""
        needed: list[fx.Node] = []
        for node in self.graph.nodes:
            if node in self.ready and self._is_read_later(node):
                needed += [n for n in self._keepable(node) if n not in needed]
        return needed

    def partner(self, node: fx.Node) -> fx.Node | None:
        """What is added to a layer's output, where it can be computed before the fit."""
        while True:
            readers = [user for user in node.users if user in self.data]
            if len(readers) != 1:
                return None
            reader = readers[0]
            if reader.target in ADD and not reader.kwargs:
                others = [a for a in reader.args if a is not node]
                found = others[0] if len(others) == 1 else None
                if not isinstance(found, fx.Node) or found not in self.ready:
                    return None
                return found if _shape(found) == _shape(node) else None
            if reader.op != "call_module" and reader.target not in KEEPING:
                return None
            node = reader

    def sources(self, wanted: list[fx.Node], known: set[fx.Node]) -> list[fx.Node]:
        """Those of the `known` nodes that the `wanted` ones are computed from."""
        found: list[fx.Node] = []
        visited: set[fx.Node] = set()
        stack = list(wanted)
        while stack:
            node = stack.pop()
            if node in visited:
                continue
            visited.add(node)
            if node in known:
                found.append(node)
            else:
                stack += node.all_input_nodes
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        return sorted(found, key=lambda n: place[n])

    def _find_ready(self) -> None:
        self.ready: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node not in self.data or node in self.waiting:
                continue
            if all(n in self.ready for n in tensor_inputs(node) if n in self.data):
                self.ready.add(node)

    def _is_read_later(self, node: fx.Node) -> bool:
        """Whether what is not computable yet reads a node, through its grid or by itself."""
        if node.op == "call_module":
            return False
        for user in node.users:
            readers: Any = user.users if user.op == "call_module" else [user]
            if any(r in self.data and r not in self.ready for r in readers):
                return True
        return False

    def _keepable(self, node: fx.Node) -> list[fx.Node]:
        """A node, or the next ones in front of it that have an entry for each image."""
        if node.op == "placeholder" or (node.op != "call_module" and _length(node) == self.batch):
            return [node]
        return [k for n in tensor_inputs(node) if n in self.data for k in self._keepable(n)]


def _length(node: fx.Node) -> str | None:
    """The first dimension of a node's value, as a symbol or number; `None`: no tensor."""
    value = node.meta.get("val")
    return str(value.shape[0]) if isinstance(value, torch.Tensor) and value.dim() else None


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    return str(getattr(value, "shape", None))
