"""`Captured`: a model on whose copy the quantizers stand; the one type that methods work on."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from subbyte.graph.flow import Flow
from subbyte.numerics.fake_quantize import FakeQuantize, State
from subbyte.recipe import Choice, Recipe

QUANTIZERS = "subbyte_quantizers"  # the submodule of a region that holds its quantizers


@contextmanager
def restoring_states(quantizers: Iterable[FakeQuantize]) -> Iterator[list[FakeQuantize]]:
    """The quantizers as a list; afterwards they are in the states in which they were before."""
    before = [(quantizer, quantizer.state) for quantizer in quantizers]
    try:
        yield [quantizer for quantizer, _ in before]
    finally:
        for quantizer, state in before:
            quantizer.state = state


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that has a grid.

    layer: qualified name of the user's layer that the tensor belongs to: the layer of a weight, the
    first layer that reads an activation. role: "weight" or "activation". region and module: where
    its `FakeQuantize` stands. rule: the range rule that was asked for it. readers: all layers that
    read it. source: for a weight, the name of the parameter in the region. runtime: the only one
    for which the grid is there, because others compute it within a kernel; `None`: for all.
    """

    layer: str
    role: str
    region: str
    module: str
    rule: Choice
    readers: tuple[str, ...]
    source: str | None = None
    runtime: str | None = None

    def stands_for(self, runtime: str | None) -> bool:
        """Whether the grid is there in a file for `runtime`; `None`: in the one for all."""
        return None in (self.runtime, runtime) or self.runtime == runtime


@dataclass(frozen=True)
class Layer:
    """A convolution, linear layer or matrix product that could be quantized.

    operation: "conv", "linear" or "matmul". node: its name in the region's graph.
    weight, activations: modules of its quantizers (`None`, empty: that side stays in float); what a
    layer reads may have its quantizer in the region that gives it.
    reason: why a layer has no quantizer at all; empty where it has one.
    """

    name: str
    operation: str
    region: str
    node: str
    weight: str | None
    activations: tuple[str, ...]
    reason: str = ""

    @property
    def integer(self) -> bool:
        """Whether both operands are on a grid, so that an integer kernel can run the layer."""
        operands = len(self.activations) + (self.weight is not None)
        return operands == 2


@dataclass
class Facts:
    """What goes along with a quantized model into files: preprocessing, classes, fingerprints.

    fingerprints: of the model's own tensors. prepared: of those that a method finds, which are
    others where layers have been equalized. blocks: of a method that learns, how it went with each
    block. tuning: of a method that tunes the whole network in the end, how that went.
    """

    example: tuple[Any, ...] = ()
    fingerprints: dict[str, str] = field(default_factory=dict)
    prepared: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    blocks: list[dict[str, Any]] = field(default_factory=list)
    tuning: dict[str, Any] | None = None


class Captured(nn.Module):
    """A copy of a model with quantizers in place, called as the model was.

    `region_names`: the qualified names of its regions, each a graph module inside `model`, in the
    order in which they run ("" is the whole model); `flow` says how tensors go between them.
    `tensors` lists what has a grid, `layers` what could have one.
    """

    def __init__(
        self,
        model: nn.Module,
        regions: tuple[str, ...],
        recipe: Recipe,
        flow: Flow = Flow(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.model = model
        self.region_names = regions
        self.recipe = recipe
        self.flow = flow
        self.tensors: list[QuantizedTensor] = []
        self.layers: list[Layer] = []
        self.facts = Facts()
        self.signature: inspect.Signature | None = None  # of the user's model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as its user would."""
        if kwargs and self.signature is not None:
            # The graph takes its arguments by position.
            bound = self.signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        return self.model(*args, **kwargs)

    @property
    def example(self) -> tuple[Any, ...]:
        """The arguments of one batch, shapes and types alone."""
        return self.facts.example

    def raw(self, *args: Any) -> Any:
        """What the regions give that no other of them reads, in the order in which they run.

        Of a whole model its outputs; of a detector what its heads give, before boxes are made of
        it.
        """
        if self.region_names == ("",):
            return self(*args)
        given: list[Any] = []

        def keeper(name: str) -> Callable[..., None]:
            def keep(_: nn.Module, __: Any, outputs: Any) -> None:
                leaves = enumerate(pytree.tree_leaves(outputs))
                given.extend(x for i, x in leaves if not self.flow.readers((name, i)))

            return keep

        with ExitStack() as stack:
            for name in self.region_names:
                handle = self.region(name).register_forward_hook(keeper(name))
                stack.callback(handle.remove)
            self(*args)
        return tuple(given)

    def train(self, mode: bool = True) -> Captured:
        """Stay in evaluation mode: the graph was captured in it."""
        del mode
        self.training = False
        return self

    def region(self, name: str) -> fx.GraphModule:
        """The graph module of a region."""
        module = self.model.get_submodule(name)
        assert isinstance(module, fx.GraphModule)
        return module

    def quantizer(self, tensor: QuantizedTensor) -> FakeQuantize:
        """The fake-quantize module of a tensor."""
        module = self.region(tensor.region).get_submodule(tensor.module)
        assert isinstance(module, FakeQuantize)
        return module

    def quantizers(self, role: str | None = None) -> Iterator[tuple[QuantizedTensor, FakeQuantize]]:
        """Each tensor with its quantizer; with `role`, those of "weight" or "activation"."""
        for tensor in self.tensors:
            if role in (None, tensor.role):
                yield tensor, self.quantizer(tensor)

    def weight(self, tensor: QuantizedTensor) -> torch.Tensor:
        """The float weight of a tensor of role "weight", batch norm folded in."""
        assert tensor.source is not None
        value: torch.Tensor = operator.attrgetter(tensor.source)(self.region(tensor.region))
        return value

    def set_state(self, state: State, role: str | None = None) -> None:
        """Put all quantizers (of `role`) into `state`."""
        for _, quantizer in self.quantizers(role):
            quantizer.state = state

    @contextmanager
    def holding_weights(self) -> Iterator[None]:
        """While it lasts, weights, their grids and their rounding do not change.

        They are quantized once, and not for every batch.
        """
        weights = [(tensor, q, q.instead) for tensor, q in self.quantizers("weight")]
        with torch.no_grad():
            for tensor, quantizer, _ in weights:
                quantizer.hold(quantizer.quantize(self.weight(tensor)))
        try:
            yield
        finally:
            for _, quantizer, before in weights:
                quantizer.instead = before

    @contextmanager
    def interpreted(self, region: str, interpreter: fx.Interpreter) -> Iterator[None]:
        """While it lasts, `interpreter` runs a region node by node."""
        module = self.region(region)

        def forward(*args: Any, **kwargs: Any) -> Any:
            leaves = pytree.tree_leaves((args, kwargs))
            outputs = interpreter.run(*leaves, enable_io_processing=False)
            return module.graph.process_outputs(outputs)

        module.forward = forward
        try:
            yield
        finally:
            del module.__dict__["forward"]

    @contextmanager
    def placed_for(self, runtime: str | None) -> Iterator[None]:
        """While it lasts, the model computes what a file for `runtime` does; `None`: one for all.

        Grids that are there for another runtime alone are off.
        """
        absent = (q for tensor, q in self.quantizers() if not tensor.stands_for(runtime))
        with restoring_states(absent) as quantizers:
            for quantizer in quantizers:
                quantizer.state = State.OFF
            yield

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """While it lasts, all quantizers are off and the model computes what the user's did."""
        with restoring_states(quantizer for _, quantizer in self.quantizers()):
            self.set_state(State.OFF)
            yield
