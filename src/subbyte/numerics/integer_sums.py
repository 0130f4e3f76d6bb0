"""The integer sums of a layer, exact, in an accumulator that saturates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from subbyte.numerics.fake_quantize import Clipping, Quantizer
from subbyte.numerics.qparams import signed_integers
from subbyte.numerics.statistics import by_multiplier

Operation = Callable[..., torch.Tensor]

EXACT = 2**24  # as far as float32 holds every whole number
PART = 16  # weights are divided into this many times one part, and another


class IntegerSums(nn.Module):
    """Computes a convolution or linear layer with the integers of its operands.

    The sum of all products and the bias is exact and then saturates, once, as Distiller's does: its
    final value is brought into −2^(b−1) … 2^(b−1) − 1. Without parameters of both operands the
    layer is computed as it is.

    Attributes:
        saturation: Counts sums and those that saturate, where there is one.
    """

    def __init__(
        self,
        operation: Operation,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        bits: int,
        operands: tuple[Quantizer, Quantizer],
        *,
        axis: int,
        output: Quantizer | None = None,
        scale_bits: int | None = None,
    ) -> None:
        """The sums of one layer.

        Args:
            operation: From input, weight, bias and `arguments` to the result.
            arguments: Those behind the bias: stride, padding and so on.
            keywords: Likewise, by name.
            bits: Of the accumulator.
            operands: The quantizers of the input and the weight.
            axis: The dimension of the result that channels are along.
            output: The quantizer of the result.
            scale_bits: Bits of the whole number in the factor from sums to integers of `output`.
        """
        super().__init__()
        self.operation, self.arguments, self.keywords = operation, arguments, keywords
        self.bits, self.axis, self.scale_bits = bits, axis, scale_bits
        # A tuple, so that they are not registered a second time as submodules of this one.
        self.quantizers = (*operands, output)
        self.saturation: Clipping | None = None

    @property
    def low(self) -> int:
        """The lowest value of the accumulator."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The highest value of the accumulator."""
        return (1 << (self.bits - 1)) - 1

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the layer gives.

        Args:
            x: The quantized input.
            weight: The quantized weight.
            bias: The bias, in float.
        """
        activation, of_weight = self.quantizers[:2]
        assert activation is not None
        assert of_weight is not None
        if not (activation.has_params and of_weight.has_params):
            return self.computed(x, weight, bias)
        sums = self.sums(x, bias)
        if self.saturation is not None:
            self.saturation.add((sums >= self.low) & (sums <= self.high))
        scale = self._channels(self._float_scale(sums.shape[self.axis]), sums)
        return (sums.clamp_(self.low, self.high) * scale.to(sums.dtype)).to(x.dtype)

    @torch.no_grad()
    def sums(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The sums before they saturate, exact whole numbers in float32 or float64."""
        activation, of_weight = self.quantizers[:2]
        assert activation is not None
        assert of_weight is not None
        params = of_weight.params
        assert params is not None
        integers = (x.float() / activation.scale).round_()
        signed = signed_integers(params, of_weight.spec)
        start = self._bias(bias)
        spec, zero = activation.spec, int(activation.zero_point)
        largest = max(spec.high - zero, zero - spec.low)
        return self._exact(integers, signed, start, largest)

    def computed(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        """The layer as it is, without integers.

        Args:
            x: The input.
            weight: The weight.
            bias: The bias, or `None`.
        """
        if len(self.arguments) == 0 and bias is None and not self.keywords:
            return self.operation(x, weight)
        return self.operation(x, weight, bias, *self.arguments, **self.keywords)

    def _exact(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, largest: int
    ) -> torch.Tensor:
        """The sums of products of whole numbers, by float32 as far as it is exact."""
        most = largest * _absolute_sums(weight, self._weight_axis())
        start = 0.0 if bias is None else float(bias.abs().max())
        if x.device.type == "cpu" and most + start < EXACT:
            return self.computed(x, weight, None if bias is None else bias.float())
        if x.device.type == "cpu":
            parts = _divided(weight)
            if all(largest * _absolute_sums(part, self._weight_axis()) < EXACT for part in parts):
                high, low = (self.computed(x, part, None).double() for part in parts)
                total = high.mul_(PART).add_(low)
                return total if bias is None else total.add_(self._channels(bias, total))
        double = None if bias is None else bias.double()
        return self.computed(x.double(), weight.double(), double)

    def _weight_axis(self) -> int:
        """The dimension of the weight along which channels are summed apart from each other."""
        of_weight = self.quantizers[1]
        assert of_weight is not None
        return 0 if of_weight.spec.axis is None else of_weight.spec.axis

    def _bias(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        if bias is None:
            return None
        integers = (bias.double() / self._sum_scale(bias.numel())).round_()
        return integers.clamp_(self.low, self.high)

    def _sum_scale(self, channels: int) -> torch.Tensor:
        """What one step of the sums of each channel is worth, (channels,), float64."""
        activation, of_weight = self.quantizers[:2]
        assert activation is not None
        assert of_weight is not None
        scale = activation.scale.double() * of_weight.scale.double()
        if self.scale_bits is not None:
            found = [1 / by_multiplier(1 / value, self.scale_bits) for value in scale.tolist()]
            scale = torch.tensor(found, dtype=torch.float64, device=scale.device)
        return scale.repeat(channels // scale.numel())

    def _float_scale(self, channels: int) -> torch.Tensor:
        """By what a sum is multiplied, (channels,), so that the result's quantizer can round it."""
        scale, output = self._sum_scale(channels), self.quantizers[2]
        if self.scale_bits is None or output is None or not output.has_params:
            return scale
        step = float(output.scale)
        found = [by_multiplier(value / step, self.scale_bits) * step for value in scale.tolist()]
        return torch.tensor(found, dtype=torch.float64, device=scale.device)

    def _channels(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        axis = self.axis % like.dim()
        return value.reshape([-1 if d == axis else 1 for d in range(like.dim())])


def _absolute_sums(weight: torch.Tensor, axis: int) -> float:
    """The largest sum of absolute values that belong to one channel."""
    return float(weight.abs().movedim(axis, 0).flatten(1).sum(1, dtype=torch.float64).max())


def _divided(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two parts of whole numbers, `PART` times the first and the second one being the weight."""
    high = ((weight + PART / 2) / PART).floor()
    return high, weight - high * PART
