"""What quantization of a model found, as plain data: scales, zero points, integers, biases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from subbyte.numerics.qspec import QSpec, along
from subbyte.numerics.rounding import fake_quantize


@dataclass(frozen=True, eq=False)
class TensorQParams:
    """The parameters with which one tensor is quantized.

    Attributes:
        scale: float32, (1,) or (channels,).
        zero_point: int32, the same shape.
        integers: Of a weight, in its shape: int8, or uint8 where the zero point is not 0 by design;
            `None` for an activation.
        sqnr_db: Energy of the tensor over that of its quantization error, in dB, on calibration
            images; infinite without any error. `None` for a weight, whose integers give it.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    integers: torch.Tensor | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True, eq=False)
class QuantParams:
    """All that a method found for a model.

    Attributes:
        tensors: The parameters of each quantized tensor, by its key in the placement. A tensor that
            is missing stays in float.
        biases: Biases that differ from the float model's, by the parameter's qualified name.
        reported: What a method reports of its work, as plain data: `blocks`, `tuning`,
            `output_correction`, `ranges`.
    """

    tensors: Mapping[str, TensorQParams] = field(default_factory=dict)
    biases: Mapping[str, torch.Tensor] = field(default_factory=dict)
    reported: Mapping[str, Any] = field(default_factory=dict)

    def with_tensors(self, tensors: Mapping[str, TensorQParams]) -> QuantParams:
        """The same with parameters of more tensors, or other ones."""
        return replace(self, tensors={**self.tensors, **tensors})

    def with_biases(self, biases: Mapping[str, torch.Tensor]) -> QuantParams:
        """The same with more biases, or other ones."""
        return replace(self, biases={**self.biases, **biases})

    def with_reported(self, **reported: Any) -> QuantParams:
        """The same with more that is reported."""
        return replace(self, reported={**self.reported, **reported})


@torch.no_grad()
def quantize_weight(
    weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, spec: QSpec
) -> TensorQParams:
    """A weight rounded to the nearest integers.

    Args:
        weight: The float weight.
        scale: float32, (1,) or (channels,), along `spec.axis`.
        zero_point: int32, the same shape.
        spec: The integers that there are.
    """
    shaped = along(scale, weight, spec.axis), along(zero_point, weight, spec.axis)
    rounded = fake_quantize(weight, *shaped, spec)
    signed = rounded.div_(shaped[0]).round_()
    return weight_of_signed(signed, scale, zero_point, spec)


def weight_of_signed(
    signed: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, spec: QSpec
) -> TensorQParams:
    """The parameters of a weight of which the integers less their zero point are known.

    Args:
        signed: Integers less their zero point, of any type, in the weight's shape; those beyond the
            ends of `spec` are clipped.
        scale: float32, (1,) or (channels,).
        zero_point: int32, the same shape.
        spec: The integers that there are.
    """
    integers = signed + along(zero_point, signed, spec.axis)
    kind = torch.int8 if spec.symmetric else torch.uint8
    integers = integers.round().clamp(spec.low, spec.high).to(kind)
    return TensorQParams(scale.detach().clone(), zero_point.detach().clone(), integers)


def signed_integers(params: TensorQParams, spec: QSpec) -> torch.Tensor:
    """A weight's integers less their zero point, float32."""
    assert params.integers is not None
    zero_point = params.zero_point.to(torch.float32)
    return params.integers.to(torch.float32) - along(zero_point, params.integers, spec.axis)


def dequantize(params: TensorQParams, spec: QSpec) -> torch.Tensor:
    """A weight as its integers stand for: (integer − zero point) · scale, float32."""
    signed = signed_integers(params, spec)
    return signed.mul_(along(params.scale, signed, spec.axis))


def sqnr_db(signal: float, noise: float) -> float:
    """Ratio of two energies in dB; infinite without noise, 0 without signal."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else 0.0
