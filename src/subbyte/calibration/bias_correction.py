"""Biases that take back what quantized weights add to a layer's outputs in the mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import fx

from subbyte.graph.batch import portions
from subbyte.graph.layers import results
from subbyte.numerics.fake_quantize import BiasQuantize, FakeQuantize, State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress

AT_ONCE = 32  # images
ALL = sys.maxsize

Observe = Callable[[fx.Node, torch.Tensor, torch.Tensor], None]


@dataclass
class Mean:
    """The mean of what has been added, over its first dimension."""

    total: torch.Tensor | None = None
    count: int = 0

    def add(self, x: torch.Tensor) -> None:
        """Add values, (n, …)."""
        total = x.sum(0).double()
        self.total = total if self.total is None else self.total + total
        self.count += x.shape[0]

    def value(self) -> torch.Tensor:
        """(…); something must have been added."""
        assert self.total is not None
        return self.total / self.count


@dataclass
class Layer:
    """A layer with a quantized weight and a bias, and the means of what it reads and gives.

    Inputs of linear layers are averaged over all positions, for which they are alike; those of
    convolutions position by position, because padding is not, and by their sizes, where images have
    several. Outputs: (channels,).
    """

    node: fx.Node
    weight: torch.Tensor
    quantizer: FakeQuantize
    bias: torch.Tensor
    inputs: dict[tuple[int, ...], Mean] = field(default_factory=dict)
    outputs: Mean = field(default_factory=Mean)

    def read(self, x: torch.Tensor) -> None:
        """Add inputs, of shape (…, inputs) or (images, inputs, positions …)."""
        rank = self.weight.dim()
        if rank == 2:
            x = x.reshape(-1, x.shape[-1])
        elif x.dim() < rank:  # one image, without a dimension for more
            x = x[None]
        self.inputs.setdefault(tuple(x.shape[1:]), Mean()).add(x)

    def give(self, outputs: torch.Tensor) -> None:
        """Add outputs."""
        self.outputs.add(self._rows(outputs))

    def shift(self) -> torch.Tensor:
        """What the quantized weight adds to each output in the mean, (outputs,)."""
        error = (self.quantizer.quantize(self.weight) - self.weight).double()
        found = []
        for mean in self.inputs.values():
            given = (mean.value()[None], error, None, *self.node.args[3:])
            rows = self._rows(self.node.target(*given))  # type: ignore[operator]
            found.append((rows.mean(0), len(rows) * mean.count))
        return _average(found) if found else torch.zeros_like(self.bias)  # the layer never ran

    def _rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """One row a position, one column a channel: the dimension that the bias is along."""
        moved = outputs.movedim(1 - self.weight.dim(), -1)
        return moved.reshape(-1, moved.shape[-1])


@torch.no_grad()
def correct_biases(
    captured: Captured, batches: Iterable[tuple[Any, ...]], images: int, progress: Progress
) -> dict[fx.Node, torch.Tensor]:
    """Subtract from each bias what the error of the quantized weight adds to it in the mean.

    b ← b − E[(W_q − W) x], where x are the inputs of the layer in the float network, on the first
    so many `images` (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and
    Bias Correction", equation 17, with the empirical mean of their appendix). A layer being linear,
    the mean of its inputs gives that of its outputs, exactly. All layers are seen in one pass.
    Layers without a bias are left as they are. Returns the float network's mean outputs of the
    layers that stand last, for `correct_outputs`.
    """
    layers = {layer.node: layer for layer in biased_layers(captured)}
    last = _last(captured, layers)

    def observe(node: fx.Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        layers[node].read(inputs)
        if node in last:
            layers[node].give(outputs)

    captured.set_state(State.OFF)
    with _observed(captured, set(layers), observe):
        for args in progress.track(list(portions(batches, images, AT_ONCE)), "correcting biases"):
            captured(*args)
    for bias, shifts in _by_bias(layers.values()):
        bias.sub_(torch.stack(shifts).mean(0).to(bias))
    return {node: layers[node].outputs.value() for node in last if layers[node].outputs.count}


@torch.no_grad()
def correct_outputs(
    captured: Captured,
    expected: dict[fx.Node, torch.Tensor],
    batches: Iterable[tuple[Any, ...]],
    images: int,
    progress: Progress,
) -> None:
    """Shift the last layers' biases until their mean outputs are those `expected` of the float.

    What all grids together, those of activations too, add to the outputs in the mean is taken back
    where nothing stands behind it any more. All grids are on.
    """
    layers = {layer.node: layer for layer in biased_layers(captured) if layer.node in expected}
    captured.set_state(State.QUANTIZE)

    def observe(node: fx.Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        del inputs
        layers[node].give(outputs)

    with _observed(captured, set(layers), observe), captured.holding_weights():
        for args in progress.track(list(portions(batches, images, AT_ONCE)), "correcting outputs"):
            captured(*args)
    shifts: dict[int, tuple[torch.Tensor, list[tuple[torch.Tensor, int]]]] = {}
    for node, layer in layers.items():
        if layer.outputs.count:
            shift = layer.outputs.value() - expected[node]
            _, found = shifts.setdefault(id(layer.bias), (layer.bias, []))
            found.append((shift, layer.outputs.count))
    for bias, found in shifts.values():
        bias.sub_(_average(found).to(bias))


def match_outputs(
    captured: Captured, batches: Iterable[tuple[Any, ...]], progress: Progress
) -> None:
    """Shift the last layers' biases until their mean outputs on all images are the float ones.

    For methods that leave biases as they are: what the grids add in the mean, those of activations
    above all, is no business of a block's own loss.
    """
    layers = {layer.node: layer for layer in biased_layers(captured)}
    last = _last(captured, layers)

    def observe(node: fx.Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        del inputs
        layers[node].give(outputs)

    with torch.no_grad(), captured.in_float(), _observed(captured, last, observe):
        for args in progress.track(batches, "float outputs"):
            captured(*args)
    expected = {node: layers[node].outputs.value() for node in last if layers[node].outputs.count}
    correct_outputs(captured, expected, batches, ALL, progress)


def biased_layers(captured: Captured) -> Iterator[Layer]:
    """The layers with a quantized weight and a bias, in the order in which they run."""
    weights = {(t.region, t.module): (t, q) for t, q in captured.quantizers("weight")}
    for layer in captured.layers:
        if layer.weight is None or (layer.region, layer.weight) not in weights:
            continue
        region = captured.region(layer.region)
        node = next(node for node in region.graph.nodes if node.name == layer.node)
        bias = bias_of(region, node)
        if bias is None:
            continue
        tensor, quantizer = weights[layer.region, layer.weight]
        yield Layer(node, captured.weight(tensor), quantizer, bias)


def _by_bias(layers: Iterable[Layer]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Each bias with the shifts of its layer: one, or several where the layer is used again."""
    shifts: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for layer in layers:
        shifts.setdefault(id(layer.bias), (layer.bias, []))[1].append(layer.shift())
    return list(shifts.values())


def _average(values: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """The mean of values that each stand for so many."""
    if len(values) == 1:
        return values[0][0]
    return sum(value * count for value, count in values) / sum(count for _, count in values)  # type: ignore[return-value]


def _last(captured: Captured, nodes: Collection[fx.Node]) -> set[fx.Node]:
    """Those of `nodes` from which no path leads into another of them, or into another region."""
    onwards = set[fx.Node]()  # all from which one does
    for name in captured.region_names:
        given = enumerate(results(captured.region(name).graph))
        onwards.update(leaf for i, leaf in given if captured.flow.readers((name, i)))
    for graph in {node.graph for node in nodes}:
        for node in reversed(graph.nodes):
            if any(user in nodes or user in onwards for user in node.users):
                onwards.add(node)
    return set(nodes) - onwards


def bias_of(region: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The parameter that a layer adds, on a grid or not; `None` where there is none."""
    source = node.args[2] if len(node.args) > 2 else None
    if isinstance(source, fx.Node) and source.op == "call_module":
        if not isinstance(region.get_submodule(str(source.target)), BiasQuantize):
            return None
        source = source.args[0]
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    value: torch.Tensor = attrgetter(str(source.target))(region)
    return value


@contextmanager
def _observed(captured: Captured, nodes: set[fx.Node], observe: Observe) -> Iterator[None]:
    """While it lasts, `observe` is shown the first input and the output of each of `nodes`."""
    with ExitStack() as stack:
        for name in captured.region_names:
            interpreter = _Observing(captured.region(name), nodes, observe)
            stack.enter_context(captured.interpreted(name, interpreter))
        yield


class _Observing(fx.Interpreter):
    def __init__(self, region: fx.GraphModule, nodes: set[fx.Node], observe: Observe) -> None:
        super().__init__(region)
        self.nodes, self.observe = nodes, observe

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n in self.nodes:
            self.observe(n, self.env[n.args[0]], output)  # type: ignore[index]
        return output
