"""Between a weight as the model has it and as the solver of least squares takes it."""

from __future__ import annotations

import torch

from subbyte.methods.common.samples import Geometry, as_weight
from subbyte.methods.gptq.solution import LayerSolution
from subbyte.methods.gptq.solve import GroupedQParams
from subbyte.numerics import ranges
from subbyte.numerics.qparams import TensorQParams, weight_of_signed
from subbyte.placement.placement import QuantizedTensor


def chosen_qparams(tensor: QuantizedTensor, weights: torch.Tensor) -> GroupedQParams:
    """The scales and zero points that a tensor's own rule gives for (groups, inputs, outputs)."""
    groups, _, outputs = weights.shape
    spec = tensor.spec
    rows = weights.transpose(1, 2).reshape(groups * outputs, -1)
    sample = ranges.sample_of(rows if spec.axis is not None else rows.reshape(1, -1))
    scale, zero_point = ranges.choose(tensor.rule.name, tensor.rule.options, sample, spec)

    def grouped(value: torch.Tensor) -> torch.Tensor:
        return value.expand(groups * outputs).reshape(groups, outputs).contiguous()

    return GroupedQParams(grouped(scale), grouped(zero_point.to(scale.dtype)), spec.low, spec.high)


def params_of_solution(
    tensor: QuantizedTensor, weight: torch.Tensor, solution: LayerSolution, geometry: Geometry
) -> TensorQParams:
    """A solution as parameters of the layer's weight.

    Args:
        tensor: The weight.
        weight: Its float values.
        solution: What was found for it.
        geometry: How the layer reads its input.
    """
    scale, zero_point = solution.scale.reshape(-1), solution.zero_point.reshape(-1)
    if tensor.spec.axis is None:
        scale, zero_point = scale[:1], zero_point[:1]
    signed = as_weight(solution.signed, weight, geometry)
    return weight_of_signed(signed, scale, zero_point.to(torch.int32), tensor.spec)
