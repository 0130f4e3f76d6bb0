"""`Simulation`: a quantized model in PyTorch, built of the float model, a placement, parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.float_model import (
    FloatModel,
    called,
    raw_outputs,
    region_of,
    structure_of,
    with_types,
)
from subbyte.graph.flow import Flow
from subbyte.numerics.fake_quantize import FakeQuantize, QuantizedWeight, Quantizer
from subbyte.numerics.integer_sums import IntegerSums
from subbyte.numerics.qparams import QuantParams, TensorQParams
from subbyte.placement.insert import sums_path, with_quantizers
from subbyte.placement.placement import NarrowSum, Placement, QuantizedTensor


class Simulation(nn.Module):
    """A quantized model, called as the model was.

    It shares the memory of the float model's parameters and never writes to it. A tensor without
    parameters passes in float. A method may put other parameters into a simulation of its own.

    Attributes:
        float_model: What it was made from.
        placement: What is quantized.
        model: The user's structure with quantizers in its regions.
        metadata: What goes along into files: recipe, version, and what is known of preprocessing
            and class names.
        output_types: Of the floats that it gives, as `FloatModel.output_types`.
    """

    model: nn.Module

    def __init__(self, float_model: FloatModel, placement: Placement, params: QuantParams) -> None:
        super().__init__()
        self.float_model, self.placement = float_model, placement
        self.reported = dict(params.reported)
        self.metadata: dict[str, Any] = {}
        self.output_types: tuple[torch.dtype, ...] | None = None
        device = float_model.device
        self._quantizers = {t.key: _quantizer(t, params, device) for t in placement.tensors}
        regions = {
            name: with_quantizers(float_model, name, placement, self._quantizers)
            for name in float_model.region_names
        }
        self.model = structure_of(float_model.model, regions)
        self._biases: set[str] = set()
        for name, value in params.biases.items():
            self.put_bias(name, value)
        self.requires_grad_(False)
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as its user would."""
        taken = self.float_model.arguments(args, kwargs)
        outputs = called(self.model, self.float_model.signature, *taken)
        return outputs if self.output_types is None else with_types(outputs, self.output_types)

    def raw(self, *args: Any) -> Any:
        """What the regions give that no other of them reads, in the order in which they run."""
        return raw_outputs(self, *args)

    def train(self, mode: bool = True) -> Simulation:
        """Stay in evaluation mode: the graph was captured in it."""
        del mode
        self.training = False
        return self

    def region(self, name: str) -> fx.GraphModule:
        """The graph module of a region."""
        return region_of(self.model, name)

    @property
    def region_names(self) -> tuple[str, ...]:
        """The regions, in the order in which they run."""
        return self.float_model.region_names

    @property
    def flow(self) -> Flow:
        """How tensors go from region to region."""
        return self.float_model.flow

    @property
    def example(self) -> tuple[Any, ...]:
        """A batch's arguments, with tensors that have a shape and a type and no memory."""
        return self.float_model.example

    @property
    def params(self) -> QuantParams:
        """All parameters as they are now."""
        found = {key: quantizer.params for key, quantizer in self._quantizers.items()}
        return QuantParams(
            {key: params for key, params in found.items() if params is not None},
            {name: self.bias(name).detach().clone() for name in sorted(self._biases)},
            dict(self.reported),
        )

    def quantizer(self, key: str) -> Quantizer:
        """The quantizer of a tensor."""
        return self._quantizers[key]

    def quantizers(self, role: str | None = None) -> Iterator[tuple[QuantizedTensor, Quantizer]]:
        """Each tensor with its quantizer; with `role`, those of "weight" or "activation"."""
        for tensor in self.placement.tensors:
            if role in (None, tensor.role):
                yield tensor, self._quantizers[tensor.key]

    def activations(self) -> Iterator[tuple[QuantizedTensor, FakeQuantize]]:
        """Each quantized activation with its quantizer."""
        for tensor, quantizer in self.quantizers("activation"):
            assert isinstance(quantizer, FakeQuantize)
            yield tensor, quantizer

    def weights(self) -> Iterator[tuple[QuantizedTensor, QuantizedWeight]]:
        """Each quantized weight with its quantizer."""
        for tensor, quantizer in self.quantizers("weight"):
            assert isinstance(quantizer, QuantizedWeight)
            yield tensor, quantizer

    def sums(self) -> Iterator[tuple[NarrowSum, IntegerSums]]:
        """Each layer whose integer sums are simulated, with what computes them."""
        for found in self.placement.sums:
            module = self.region(found.region).get_submodule(sums_path(found.node))
            assert isinstance(module, IntegerSums)
            yield found, module

    def with_plain_sums(self) -> Simulation:
        """The same with the sums of the runtimes, which do not saturate: what files compute."""
        if not self.placement.sums:
            return self
        made = Simulation(self.float_model, self.placement.with_plain_sums(), self.params)
        made.metadata, made.output_types = self.metadata, self.output_types
        return made

    def quantizers_in(
        self, part: nn.Module, role: str | None = None
    ) -> Iterator[tuple[QuantizedTensor, Quantizer]]:
        """Those of the tensors whose quantizer a part of the model calls."""
        called_there = {id(module) for module in part.modules()}
        for tensor, quantizer in self.quantizers(role):
            if id(quantizer) in called_there:
                yield tensor, quantizer

    def weight(self, tensor: QuantizedTensor) -> torch.Tensor:
        """The float weight of a tensor of role "weight", batch norm folded in."""
        return float_weight(self.float_model, tensor)

    def put(self, key: str, params: TensorQParams) -> None:
        """Give a tensor other parameters."""
        self._quantizers[key].put(params)

    def bias(self, name: str) -> torch.Tensor:
        """A bias as it is now, by the parameter's qualified name."""
        value: torch.Tensor = operator.attrgetter(name)(self.model)
        return value

    def put_bias(self, name: str, value: torch.Tensor) -> None:
        """Give a layer another bias; the float model keeps its own."""
        path, _, attribute = name.rpartition(".")
        owner = self.model.get_submodule(path) if path else self.model
        before: torch.Tensor = getattr(owner, attribute)
        new = value.detach().to(before.device, before.dtype).clone()
        is_parameter = isinstance(before, nn.Parameter)
        setattr(owner, attribute, nn.Parameter(new, requires_grad=False) if is_parameter else new)
        self._biases.add(name)


def simulate(float_model: FloatModel, placement: Placement, params: QuantParams) -> Simulation:
    """The model with a placement's quantizers, with parameters as far as there are any.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized, and where.
        params: Scales, zero points, integers and biases.
    """
    return Simulation(float_model, placement, params)


def float_weight(float_model: FloatModel, tensor: QuantizedTensor) -> torch.Tensor:
    """The float weight of a tensor of role "weight", batch norm folded in."""
    assert tensor.source is not None
    value: torch.Tensor = operator.attrgetter(tensor.source)(float_model.region(tensor.region))
    return value.detach()


def _quantizer(tensor: QuantizedTensor, params: QuantParams, device: torch.device) -> Quantizer:
    found = params.tensors.get(tensor.key)
    kind = QuantizedWeight if tensor.role == "weight" else FakeQuantize
    made: Quantizer = kind(tensor.spec, tensor.layer, found)
    return made.to(device)
