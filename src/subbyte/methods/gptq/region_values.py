"""What the nodes of a region give on all images, as far as layers still to come read it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.graph.blocks import same_part
from subbyte.methods.common.activation_cache import Values, images_of, picked, recorded
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.chunks import chunks
from subbyte.methods.gptq.order import LayerOrder, Operand
from subbyte.placement.placement import node_names
from subbyte.placement.simulation import Simulation


@dataclass(frozen=True)
class Part:
    """A part of a region, from nodes whose values are known to some others.

    Attributes:
        module: Takes the values of the first by position and gives those of the others as a tuple.
        inputs: What is known of the first, on all images.
        count: How many images.
        device: Where it runs.
    """

    module: fx.GraphModule
    inputs: list[Any]
    count: int
    device: torch.device

    def run(self, chosen: slice) -> list[torch.Tensor]:
        """What the nodes give for some of the images."""
        return list(self.module(*picked(self.inputs, chosen, self.count, self.device)))


class Collected:
    """Outputs of all images, put together chunk by chunk in a store."""

    def __init__(self, store: Store, count: int) -> None:
        self.store, self.count = store, count
        self.values: list[torch.Tensor] = []

    def put(self, outputs: Sequence[torch.Tensor], chosen: slice) -> None:
        """Put some images' outputs where those of all are, which is made for the first."""
        for i, output in enumerate(outputs):
            if len(self.values) <= i:
                shape = (self.count, *output.shape[1:])
                self.values.append(self.store.empty(shape, output.dtype))
            self.store.put(self.values[i], chosen, output)
        self.store.let_go()


class RegionValues:
    """The values at the frontier of a region, in float and quantized.

    Attributes:
        simulation: Its weights have their integers as far as layers are settled.
        order: Of the region's layers.
        store: Where values are kept.
        values: By the nodes' names.
    """

    def __init__(
        self,
        simulation: Simulation,
        order: LayerOrder,
        store: Store,
        before: Simulation | None,
        batches: Iterable[tuple[Any, ...]],
    ) -> None:
        """What the region's own inputs are.

        Args:
            simulation: The method's own.
            order: Of the region's layers.
            store: Where values go.
            before: In which the regions that run before are quantized; `None`: there are none.
            batches: The calibration images.
        """
        self.simulation, self.order, self.store = simulation, order, store
        float_model = simulation.float_model
        self._exact = float_model.region(order.region)
        self._quantized = simulation.region(order.region)
        self._nodes = node_names(self._quantized.graph)
        self.values: dict[str, Values] = recorded(float_model, before, order.region, batches, store)

    def fresh(self) -> list[fx.Node]:
        """The nodes at the frontier whose values are not known yet."""
        return [node for node in self.order.frontier() if node.name not in self.values]

    def exact_part(self, outputs: Sequence[fx.Node]) -> Part:
        """The part of the float model that computes some nodes from what is known."""
        inputs = self.order.sources(outputs, self.values)
        module = same_part(self._exact, inputs, outputs)
        return self._part(module, inputs, [self.values[n.name].exact for n in inputs])

    def quantized_part(self, operands: Sequence[Operand]) -> Part:
        """The part of the simulation that computes what some nodes read, behind quantizers."""
        outputs = [x.within(self._nodes[x.reader.name]) for x in operands]
        return self._quantized_part([x.node for x in operands], self.values, outputs)

    def take_exact(self, nodes: Sequence[fx.Node], wholes: Sequence[torch.Tensor]) -> None:
        """Keep what some nodes give in float; quantized it is the same until it is computed."""
        for node, whole in zip(nodes, wholes, strict=True):
            self.values[node.name] = Values(whole, whole)

    def compute_exact(self, nodes: Sequence[fx.Node]) -> None:
        """Compute what some nodes give in float."""
        if nodes:
            self.take_exact(nodes, self._computed(self.exact_part(nodes)))

    def advance(self, nodes: Sequence[fx.Node]) -> None:
        """Compute what some nodes give behind settled layers, and drop what is not read again."""
        if nodes:
            known = set(self.values) - {node.name for node in nodes}
            wholes = self._computed(self._quantized_part(nodes, known, nodes))
            for node, whole in zip(nodes, wholes, strict=True):
                self.values[node.name] = Values(self.values[node.name].exact, whole)
        needed = {node.name for node in self.order.frontier()}
        self.values = {name: value for name, value in self.values.items() if name in needed}

    def _quantized_part(
        self, nodes: Sequence[fx.Node], known: Collection[str], outputs: Sequence[fx.Node]
    ) -> Part:
        """The part of the simulation from `known` values to `outputs`, which `nodes` lead to."""
        inputs = self.order.sources(nodes, known)
        module = same_part(self._quantized, inputs, outputs)
        return self._part(module, inputs, [self.values[n.name].quantized for n in inputs])

    def _part(self, module: fx.GraphModule, inputs: list[fx.Node], values: list[Any]) -> Part:
        count = images_of([self.values[node.name].exact for node in inputs])
        return Part(module, values, count, self.store.device)

    def _computed(self, part: Part) -> list[torch.Tensor]:
        collected = Collected(self.store, part.count)
        for chosen in chunks(part.count):
            collected.put(part.run(chosen), chosen)
        return collected.values
