"""What is learned when a whole network is tuned: scales, integers and biases of a simulation.

Step sizes are learned as in Esser et al. 2020, "Learned Step Size Quantization", but as logarithms,
so that one rate suits all of them. Integers move by numbers that are rounded to them, gradients
passing straight through (Bengio et al. 2013, "Estimating or Propagating Gradients Through
Stochastic Neurons").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from subbyte.calibration.biased_layers import biased_layers
from subbyte.numerics.fake_quantize import BiasQuantize
from subbyte.numerics.qparams import TensorQParams, signed_integers, weight_of_signed
from subbyte.numerics.qspec import QSpec, along
from subbyte.numerics.straight_through import gradients, on_steps
from subbyte.placement.simulation import Simulation


@dataclass(frozen=True)
class Rates:
    """Adam's rates.

    Attributes:
        activations: Of the logarithms of activations' scales.
        weights: Of the logarithms of weights' scales.
        biases: Of biases.
        integers: Of integers of 2 bits, in integers a step, and twice that for every two bits more,
            since a step is a smaller part of the range then; 0: they stay.
    """

    activations: float = 3e-3
    weights: float = 1e-3
    biases: float = 1e-3
    integers: float = 0.0

    def times(self, factor: float) -> Rates:
        """All but the integers' rate times a factor."""
        return Rates(
            self.activations * factor, self.weights * factor, self.biases * factor, self.integers
        )


class LearnedWeight:
    """A weight whose integers and scales are learned.

    It is rounded once for all images of a step. Its gradient reaches integers and scales in the
    end, by closed formulas: that of integers passes where none is beyond the limits.

    Attributes:
        spec: Its integers.
        zero_point: As of the parameters that it starts from.
        signed: Integers less their zero points, not rounded.
        log_scale: The logarithms of the scales.
        low: The least integer less the zero points.
        high: The greatest.
    """

    def __init__(self, params: TensorQParams, spec: QSpec) -> None:
        self.spec, self.zero_point = spec, params.zero_point
        self.signed = nn.Parameter(signed_integers(params, spec))
        self.log_scale = nn.Parameter(params.scale.log())
        zero_point = along(params.zero_point, self.signed, spec.axis).to(self.signed.dtype)
        self.low, self.high = spec.low - zero_point, spec.high - zero_point
        self._value: torch.Tensor | None = None

    @torch.no_grad()
    def begin(self) -> None:
        """Round the weight to what has been learned so far."""
        rounded = self.signed.round().clamp_(self.low, self.high)
        self._value = rounded.mul_(self._scale()).requires_grad_()
        if self.signed.grad is not None:
            self._value.grad = self.signed.grad.zero_()  # whose memory it takes until the end

    def __call__(self, _: torch.Tensor) -> torch.Tensor:
        """The weight as it was rounded, whatever the parameter holds."""
        assert self._value is not None
        return self._value

    @torch.no_grad()
    def end(self) -> None:
        """Give integers and logarithms of scales the gradients of what the weight has got."""
        value, self._value = self._value, None
        if value is None or value.grad is None:
            return
        self.signed.grad, axis = value.grad, self.spec.axis
        gradient = self.signed.grad
        products = value.mul_(gradient)
        sums = products.sum() if axis is None else products.movedim(axis, 0).flatten(1).sum(1)
        sums = sums.reshape(self.log_scale.shape)
        if self.log_scale.grad is None:
            self.log_scale.grad = sums
        else:
            self.log_scale.grad.copy_(sums)
        rounded = self.signed.round()
        beyond = rounded.ne_(torch.clamp(rounded, self.low, self.high))
        gradient.mul_(self._scale())
        gradient.addcmul_(gradient, beyond, value=-1)

    def _scale(self) -> torch.Tensor:
        return along(self.log_scale.detach().exp(), self.signed, self.spec.axis)

    def params(self) -> TensorQParams:
        """What has been learned so far."""
        signed = self.signed.detach().round().clamp(self.low, self.high)
        scale = self.log_scale.detach().exp()
        return weight_of_signed(signed, scale, self.zero_point, self.spec)


class LearnedActivation:
    """An activation whose scale is learned.

    Attributes:
        before: The parameters that it starts from.
        log_scale: The logarithm of the scale.
        low: The least integer less the zero point.
        high: The greatest.
    """

    def __init__(self, params: TensorQParams, spec: QSpec) -> None:
        self.before = params
        self.log_scale = nn.Parameter(params.scale.log())
        zero_point = int(params.zero_point)
        self.low, self.high = spec.low - zero_point, spec.high - zero_point

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`x` quantized with the scale of now."""
        output: torch.Tensor = _FakeQuantize.apply(x, self.log_scale, self.low, self.high)
        return output

    def params(self) -> TensorQParams:
        """What has been learned so far."""
        return replace(self.before, scale=self.log_scale.detach().exp())


class Parameters:
    """Log scales, integers and biases of a simulation, in place in it while it is tuned.

    Attributes:
        weights: By the tensors' keys.
        activations: By the tensors' keys.
        biases: The simulation's own.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.weights: dict[str, LearnedWeight] = {}
        self.activations: dict[str, LearnedActivation] = {}
        for tensor, quantizer in simulation.quantizers():
            params = quantizer.params
            if params is not None and tensor.role == "weight":
                self.weights[tensor.key] = LearnedWeight(params, tensor.spec)
            elif params is not None:
                self.activations[tensor.key] = LearnedActivation(params, tensor.spec)
        self.biases = _own_biases(simulation)
        self._simulation = simulation
        learned: dict[str, LearnedWeight | LearnedActivation] = {**self.weights, **self.activations}
        self._places = [(simulation.quantizer(key), own) for key, own in learned.items()]
        self._rounding = [x for x in simulation.modules() if isinstance(x, BiasQuantize)]

    def groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Adam's groups; all that has one rate is one tensor in them, which takes a step at once.

        What is learned lies in the memory of these tensors from now on, and its gradients in that
        of theirs. After `released` it has gradients of its own.
        """
        found: list[tuple[float, list[torch.Tensor]]] = [
            (rates.activations, [x.log_scale for x in self.activations.values()]),
            (rates.weights, [x.log_scale for x in self.weights.values()]),
            (rates.biases, self.biases),
        ]
        if rates.integers:
            found += [
                (rates.integers * 2 ** ((bits - 2) / 2), its) for bits, its in self._integers()
            ]
        return [{"params": [whole], "lr": rate} for rate, its in found for whole in joined(its)]

    def released(self) -> None:
        """Drop all gradients."""
        weights = self.weights.values()
        scales = [x.log_scale for x in self.activations.values()]
        own = [tensor for x in weights for tensor in (x.log_scale, x.signed)]
        for tensor in [*scales, *own, *self.biases]:
            tensor.grad = None

    def _integers(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """The integers of all weights of so many bits."""
        for bits in sorted({x.spec.bits for x in self.weights.values()}):
            yield bits, [x.signed for x in self.weights.values() if x.spec.bits == bits]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, the simulation computes with these.

        Gradients reach biases and scales of activations at once, those of weights at its end.
        """
        for weight in self.weights.values():
            weight.begin()
        self._place(True)
        try:
            yield
        finally:
            self._place(False)
        for weight in self.weights.values():
            weight.end()

    def _place(self, learning: bool) -> None:
        for quantizer, own in self._places:
            quantizer.replacement = own if learning else None
        for module in self._rounding:
            module.exact = learning
        for bias in self.biases:
            bias.requires_grad_(learning)

    @torch.no_grad()
    def put(self) -> None:
        """Give the simulation what has been learned so far; biases have it already."""
        for key, weight in self.weights.items():
            self._simulation.put(key, weight.params())
        for key, activation in self.activations.items():
            self._simulation.put(key, activation.params())


def _own_biases(simulation: Simulation) -> list[torch.Tensor]:
    """The biases of layers with a quantized weight, as tensors that the simulation alone has."""
    found = biased_layers(simulation.float_model, simulation.placement)
    names = list(dict.fromkeys(layer.bias for _, layer in found))
    for name in names:
        simulation.put_bias(name, simulation.bias(name))
    return [simulation.bias(name) for name in names]


def joined(parts: Sequence[torch.Tensor]) -> list[nn.Parameter]:
    """One tensor for each type, in whose memory the parts of it lie from now on, one by one.

    Likewise with gradients, which are 0 at first.
    """
    found = []
    for dtype in dict.fromkeys(part.dtype for part in parts):
        its = [part for part in parts if part.dtype == dtype]
        whole = nn.Parameter(torch.cat([part.detach().reshape(-1) for part in its]))
        whole.grad = torch.zeros_like(whole)
        sizes = [part.numel() for part in its]
        places = zip(
            torch.split(whole.detach(), sizes), torch.split(whole.grad, sizes), strict=True
        )
        for part, (values, gradient) in zip(its, places, strict=True):
            part.data = values.view_as(part)
            part.grad = gradient.view_as(part)
        found.append(whole)
    return found


class _FakeQuantize(torch.autograd.Function):
    """Q(x; s) with the gradient of x where nothing is clipped, and that of log s."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log: torch.Tensor, low: int, high: int) -> torch.Tensor:
        y, clipped = on_steps(x, log.exp(), low, high)
        ctx.save_for_backward(x, y, clipped)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, y, clipped = ctx.saved_tensors
        passed, total = gradients(gradient, x, y, clipped)
        return passed, total[None], None, None
