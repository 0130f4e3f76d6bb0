"""What is learned when a whole network is tuned, in place in it: scales, integers and biases.

Step sizes are learned as in Esser et al. 2020, "Learned Step Size Quantization", but as logarithms,
so that one rate suits all of them. Integers move by numbers that are rounded to them, gradients
passing straight through (Bengio et al. 2013, "Estimating or Propagating Gradients Through
Stochastic Neurons").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from subbyte.calibration.bias_correction import biased_layers
from subbyte.numerics.fake_quantize import BiasQuantize, FakeQuantize
from subbyte.numerics.qspec import along
from subbyte.numerics.straight_through import gradients, on_steps
from subbyte.placement.simulation import Captured


@dataclass(frozen=True)
class Rates:
    """Adam's rates: of log scales of activations and of weights, of biases, and of integers.

    One log scale a channel where a weight has one grid a channel. Integers in levels of 2 bits, and
    twice as many for every two bits more, since a level is a smaller part of the range then; 0:
    they stay.
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


@dataclass
class _Weight:
    """A weight's grid, its integers less their zero points as they are learned, and its scales."""

    quantizer: FakeQuantize
    levels: nn.Parameter
    log: nn.Parameter
    low: torch.Tensor
    high: torch.Tensor

    def integers(self) -> torch.Tensor:
        """The integers less their zero points."""
        return self.levels.detach().round().clamp(self.low, self.high)

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight of these integers and scales, whatever the parameter holds."""
        levels: torch.Tensor = _Rounded.apply(self.levels, self.low, self.high)
        return levels * along(self.log.exp(), weight, self.quantizer.spec.axis)


class _Stepped:
    """An activation on a grid with a learned scale."""

    def __init__(self, grid: FakeQuantize) -> None:
        self.quantizer = grid
        self.log = nn.Parameter(grid.scale.log())
        zero_point = int(grid.zero_point)
        self.low, self.high = grid.spec.low - zero_point, grid.spec.high - zero_point

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _FakeQuantize.apply(x, self.log, self.low, self.high)
        return output


class Parameters:
    """Log scales, integers and biases of a captured network, in place in it while it is tuned."""

    def __init__(self, captured: Captured) -> None:
        self.weights: list[_Weight] = []
        self.activations: list[_Stepped] = []
        for tensor, quantizer in captured.quantizers():
            if tensor.role == "weight":
                self.weights.append(_weight(captured.weight(tensor), quantizer))
            else:
                self.activations.append(_Stepped(quantizer))
        self.biases = list({id(x.bias): x.bias for x in biased_layers(captured)}.values())

    def groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Adam's groups."""
        groups = [
            {"params": [x.log for x in self.activations], "lr": rates.activations},
            {"params": [x.log for x in self.weights], "lr": rates.weights},
            {"params": self.biases, "lr": rates.biases},
        ]
        if rates.integers:
            groups += [
                {
                    "params": [x.levels],
                    "lr": rates.integers * 2 ** ((x.quantizer.spec.bits - 2) / 2),
                }
                for x in self.weights
            ]
        return groups

    @contextmanager
    def in_place(self, captured: Captured) -> Iterator[None]:
        """While it lasts, the network computes with these, and gradients reach them."""
        rounding = [m for m in captured.modules() if isinstance(m, BiasQuantize)]
        learned: list[_Weight | _Stepped] = [*self.weights, *self.activations]
        try:
            for part in learned:
                part.quantizer.instead = part
            for module in rounding:
                module.exact = True
            for bias in self.biases:
                bias.requires_grad_(True)
            yield
        finally:
            for part in learned:
                part.quantizer.instead = None
            for module in rounding:
                module.exact = False
            for bias in self.biases:
                bias.requires_grad_(False)

    @torch.no_grad()
    def keep(self, captured: Captured) -> None:
        """Give the quantizers what was found."""
        for part in self.activations:
            part.quantizer.scale.copy_(part.log.exp())
        tensors = {id(q): t for t, q in captured.quantizers("weight")}
        for found in self.weights:
            quantizer = found.quantizer
            weight = captured.weight(tensors[id(quantizer)])
            quantizer.scale.copy_(found.log.exp())
            scale = along(quantizer.scale, weight, quantizer.spec.axis)
            quantizer.offset = found.integers() - weight / scale


class Saved:
    """All grids and biases as they are now, to be put back."""

    def __init__(self, captured: Captured) -> None:
        self.grids = [(q, q.scale.clone(), q.offset) for _, q in captured.quantizers()]
        biases = {id(x.bias): x.bias for x in biased_layers(captured)}.values()
        self.biases = [(bias, bias.detach().clone()) for bias in biases]

    @torch.no_grad()
    def put_back(self) -> None:
        """Make grids and biases what they were."""
        for grid, scale, offset in self.grids:
            grid.scale.copy_(scale)
            grid.offset = offset
        self.put_back_biases()

    @torch.no_grad()
    def put_back_biases(self) -> None:
        """Make biases what they were."""
        for bias, value in self.biases:
            bias.copy_(value)


def _weight(weight: torch.Tensor, quantizer: FakeQuantize) -> _Weight:
    spec = quantizer.spec
    zero_point = along(quantizer.zero_point, weight, spec.axis).to(weight.dtype)
    return _Weight(
        quantizer,
        nn.Parameter(quantizer.levels(weight)),
        nn.Parameter(quantizer.scale.log()),
        spec.low - zero_point,
        spec.high - zero_point,
    )


class _Rounded(torch.autograd.Function):
    """The nearest integers between two limits, with the gradient passing where none is beyond."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        level = x.round()
        inside = level.clamp(low, high)
        ctx.save_for_backward(level.sub_(inside).abs_().clamp_(max=1))
        return inside

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (beyond,) = ctx.saved_tensors
        return torch.addcmul(gradient, gradient, beyond, value=-1), None, None


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
