"""Biases that take back what quantized weights add to a layer's outputs in the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx

from subbyte.graph.captured import Captured
from subbyte.graph.sensitivity import portions
from subbyte.grid.fake_quantize import BiasQuantize, State
from subbyte.progress import Progress

AT_ONCE = 32  # images

Observe = Callable[[fx.Node, torch.Tensor, torch.Tensor], None]


@dataclass
class Layer:
    """A layer with a quantized weight and a bias, and the sum of its inputs over `count` images.

    Inputs of linear layers are summed over all positions, for which they are alike; those of
    convolutions position by position, because padding is not.
    """

    node: fx.Node
    weight: torch.Tensor
    quantized: torch.Tensor
    bias: torch.Tensor
    total: torch.Tensor | None = None
    count: int = 0

    @property
    def channel(self) -> int:
        """The dimension of the outputs that a bias is along, from the end."""
        return 1 - self.weight.dim()

    def observe(self, x: torch.Tensor) -> None:
        """Add inputs, of shape (…, inputs) or (images, inputs, positions …)."""
        rank = self.weight.dim()
        if rank == 2:
            x = x.reshape(-1, x.shape[-1])
        elif x.dim() < rank:  # one image, without a dimension for more
            x = x[None]
        total = x.double().sum(0, keepdim=True)
        self.total = total if self.total is None else self.total + total
        self.count += x.shape[0]

    def shift(self) -> torch.Tensor:
        """What the quantized weight adds to each output in the mean, (outputs,)."""
        if self.total is None:  # the layer never ran
            return torch.zeros_like(self.bias)
        mean, error = self.total / self.count, (self.quantized - self.weight).double()
        outputs = self.node.target(mean, error, None, *self.node.args[3:])  # type: ignore[operator]
        return _rows(outputs, self.channel).mean(0)


@dataclass
class Mean:
    """The mean of a layer's outputs, in each channel."""

    channel: int  # the dimension, from the end
    total: torch.Tensor | None = None
    count: int = 0

    def observe(self, outputs: torch.Tensor) -> None:
        """Add outputs."""
        rows = _rows(outputs.double(), self.channel)
        self.total = rows.sum(0) if self.total is None else self.total + rows.sum(0)
        self.count += len(rows)

    def value(self) -> torch.Tensor:
        """(channels,)."""
        assert self.total is not None
        return self.total / self.count


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
    layers = list(_layers(captured))
    last = {layer.node: Mean(layer.channel) for layer in layers if _is_last(layer.node, layers)}
    by_node = {layer.node: layer for layer in layers}

    def observe(node: fx.Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        by_node[node].observe(inputs)
        if node in last:
            last[node].observe(outputs)

    captured.set_state(State.OFF)
    with _observed(captured, set(by_node), observe):
        for args in progress.track(list(portions(batches, images, AT_ONCE)), "correcting biases"):
            captured(*args)
    for bias, shifts in _by_bias(layers):
        bias.sub_(torch.stack(shifts).mean(0).to(bias))
    return {node: mean.value() for node, mean in last.items() if mean.count}


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
    layers = {layer.node: layer for layer in _layers(captured) if layer.node in expected}
    means = {node: Mean(layer.channel) for node, layer in layers.items()}
    captured.set_state(State.QUANTIZE)
    with _observed(captured, set(means), lambda node, _, outputs: means[node].observe(outputs)):
        for args in progress.track(list(portions(batches, images, AT_ONCE)), "correcting outputs"):
            captured(*args)
    for node, mean in means.items():
        layers[node].bias.sub_((mean.value() - expected[node]).to(layers[node].bias))


def _layers(captured: Captured) -> Iterator[Layer]:
    weights = {(t.region, t.module): (t, q) for t, q in captured.quantizers("weight")}
    for layer in captured.layers:
        if layer.weight is None or (layer.region, layer.weight) not in weights:
            continue
        region = captured.region(layer.region)
        node = next(node for node in region.graph.nodes if node.name == layer.node)
        bias = _bias(region, node)
        if bias is None:
            continue
        tensor, quantizer = weights[layer.region, layer.weight]
        weight = captured.weight(tensor)
        yield Layer(node, weight, quantizer.quantize(weight), bias)


def _by_bias(layers: Iterable[Layer]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Each bias with the shifts of its layer: one, or several where the layer is used again."""
    shifts: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for layer in layers:
        shifts.setdefault(id(layer.bias), (layer.bias, []))[1].append(layer.shift())
    return list(shifts.values())


def _is_last(node: fx.Node, layers: Iterable[Layer]) -> bool:
    """Whether no path leads from `node` into another of `layers`."""
    others = {layer.node for layer in layers}
    ahead, seen = list(node.users), set[fx.Node]()
    while ahead:
        user = ahead.pop()
        if user in others:
            return False
        if user not in seen:
            seen.add(user)
            ahead.extend(user.users)
    return True


def _bias(region: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
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


def _rows(outputs: torch.Tensor, channel: int) -> torch.Tensor:
    """One row a position, one column a channel."""
    moved = outputs.movedim(channel, -1)
    return moved.reshape(-1, moved.shape[-1])


@contextmanager
def _observed(captured: Captured, nodes: set[fx.Node], observe: Observe) -> Iterator[None]:
    """While it lasts, `observe` is shown the first input and the output of each of `nodes`."""
    with ExitStack() as stack:
        for name in captured.region_names:
            region = captured.region(name)
            region.forward = _Observing(region, nodes, observe).run
            stack.callback(region.__dict__.pop, "forward")
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
