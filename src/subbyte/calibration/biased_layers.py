"""Layers with a bias and a quantized weight, and the means of what they read and give."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from subbyte.graph.float_model import FloatModel, Regional, interpreted, parameter_name
from subbyte.graph.layers import results
from subbyte.numerics.qparams import TensorQParams, dequantize
from subbyte.numerics.qspec import QSpec
from subbyte.placement.placement import PlacedLayer, Placement, node_names
from subbyte.placement.simulation import float_weight

Node = tuple[str, str]  # a region, and the name of a node in its graph
Observe = Callable[[Node, torch.Tensor, torch.Tensor], None]


@dataclass
class Mean:
    """The mean of what has been added, over its first dimension."""

    total: torch.Tensor | None = None
    count: int = 0

    def add(self, x: torch.Tensor) -> None:
        """Add values, (n, …)."""
        total = x.sum(0)
        self.total = total.double() if self.total is None else self.total.add_(total)
        self.count += x.shape[0]

    def value(self) -> torch.Tensor:
        """(…); something must have been added."""
        assert self.total is not None
        return self.total / self.count


@dataclass
class BiasedLayer:
    """A layer with a quantized weight and a bias, and the means of what it reads and gives.

    Inputs of linear layers are averaged over all positions, for which they are alike; those of
    convolutions position by position, because padding is not, and by their sizes, where images have
    several.

    Attributes:
        node: In the float model's graph.
        weight: The float weight.
        spec: Of the weight.
        bias: The qualified name of the bias.
        own: The float model's bias, (channels,).
        inputs: Shape of an image's input → the mean of the inputs.
        outputs: The mean of the outputs, (channels,).
        learned: The same without the images that judge.
    """

    node: fx.Node
    weight: torch.Tensor
    spec: QSpec
    bias: str
    own: torch.Tensor
    inputs: dict[tuple[int, ...], Mean] = field(default_factory=dict)
    outputs: Mean = field(default_factory=Mean)
    learned: Mean = field(default_factory=Mean)

    def read(self, x: torch.Tensor) -> None:
        """Add inputs, of shape (…, inputs) or (images, inputs, positions …)."""
        rank = self.weight.dim()
        if rank == 2:
            x = x.reshape(-1, x.shape[-1])
        elif x.dim() < rank:  # one image, without a dimension for more
            x = x[None]
        self.inputs.setdefault(tuple(x.shape[1:]), Mean()).add(x)

    def give(self, outputs: torch.Tensor, *, judging: bool) -> None:
        """Add outputs, of images that judge or of others."""
        rows = self._rows(outputs)
        self.outputs.add(rows)
        if not judging:
            self.learned.add(rows)

    def shift(self, params: TensorQParams) -> torch.Tensor:
        """What the quantized weight adds to each output in the mean, (outputs,)."""
        error = (dequantize(params, self.spec).to(self.weight) - self.weight).double()
        found = []
        for mean in self.inputs.values():
            given = (mean.value()[None], error, None, *self.node.args[3:])
            rows = self._rows(self.node.target(*given))  # type: ignore[operator]
            found.append((rows.mean(0), len(rows) * mean.count))
        return average(found) if found else torch.zeros_like(self.own)  # the layer never ran

    def _rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """One row a position, one column a channel: the dimension that the bias is along."""
        moved = outputs.movedim(1 - self.weight.dim(), -1)
        return moved.reshape(-1, moved.shape[-1])


def biased_layers(
    float_model: FloatModel, placement: Placement
) -> Iterator[tuple[PlacedLayer, BiasedLayer]]:
    """The layers with a quantized weight and a bias, in the order in which they run."""
    nodes = {r: node_names(float_model.region(r).graph) for r in float_model.region_names}
    for placed in placement.layers:
        node = nodes[placed.region][placed.node]
        name = bias_name(node)
        if placed.weight is None or name is None:
            continue
        tensor = placement.tensor(placed.weight)
        own: torch.Tensor = operator.attrgetter(name)(float_model.region(placed.region))
        weight = float_weight(float_model, tensor)
        bias = parameter_name(placed.region, name)
        yield placed, BiasedLayer(node, weight, tensor.spec, bias, own.detach())


def bias_name(node: fx.Node) -> str | None:
    """The name of the parameter that a layer of a float graph adds; `None` where there is none."""
    source = node.args[2] if len(node.args) > 2 else None
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    return str(source.target)


def key_of(layer: PlacedLayer) -> Node:
    """Where a layer stands."""
    return layer.region, layer.node


def average(values: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """The mean of values that each stand for so many."""
    if len(values) == 1:
        return values[0][0]
    return sum(value * count for value, count in values) / sum(count for _, count in values)  # type: ignore[return-value]


def last_layers(float_model: FloatModel, nodes: Collection[Node]) -> set[Node]:
    """Those of `nodes` from which no path leads into another of them, or into another region."""
    last: set[Node] = set()
    for region in float_model.region_names:
        graph = float_model.region(region).graph
        own = {node for node in graph.nodes if (region, node.name) in nodes}
        given = enumerate(results(graph))
        onwards = {leaf for i, leaf in given if float_model.flow.readers((region, i))}
        for node in reversed(graph.nodes):
            if any(user in own or user in onwards for user in node.users):
                onwards.add(node)
        last.update((region, node.name) for node in own - onwards)
    return last


@contextmanager
def observed(model: Regional, nodes: set[Node], observe: Observe) -> Iterator[None]:
    """While it lasts, some layers of a network are watched.

    Args:
        model: The float network or a simulation.
        nodes: The layers that are watched.
        observe: Is shown the first input and the output of each.
    """
    with ExitStack() as stack:
        for name in model.region_names:
            region = model.region(name)
            stack.enter_context(interpreted(region, _Observing(region, name, nodes, observe)))
        yield


class _Observing(fx.Interpreter):
    def __init__(
        self, module: fx.GraphModule, region: str, nodes: set[Node], observe: Observe
    ) -> None:
        super().__init__(module)
        self.region, self.nodes, self.observe = region, nodes, observe

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if (self.region, n.name) in self.nodes:
            self.observe((self.region, n.name), self.env[n.args[0]], output)  # type: ignore[index]
        return output
