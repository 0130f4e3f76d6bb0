"""Scales of weights with which the biases of their layers fit into the int32 of the sums."""

from __future__ import annotations

import operator

import torch

from subbyte.graph.float_model import FloatModel, parameter_name
from subbyte.numerics.qparams import (
    QuantParams,
    TensorQParams,
    quantize_weight,
    signed_integers,
    weight_of_signed,
)
from subbyte.numerics.qspec import TINY, QSpec, along
from subbyte.placement.placement import Placement, QuantizedBias, node_names
from subbyte.placement.simulation import float_weight

LARGEST = 2**29  # of a bias; what remains of int32 is for the sum, and for what is learned later


@torch.no_grad()
def with_room_for_biases(
    float_model: FloatModel, placement: Placement, params: QuantParams
) -> QuantParams:
    """Parameters with scales of weights at which every bias fits.

    A bias is held in steps of s_input · s_weight. Where batch norm has nearly switched a channel
    off, its weights are so small that the bias does not fit into int32: they get the scale at which
    it does, and are rounded anew. What they add cannot be seen beside the bias. Where all integers
    of a channel are 0, any scale does for them, and the bias gets its finest steps. All other
    channels keep what they have.

    Args:
        float_model: The model.
        placement: What is quantized.
        params: A bias of which the weight's or the input's parameters are missing is not looked at.
    """
    needed: dict[str, torch.Tensor] = {}
    for bias in placement.biases:
        activation, weight = (params.tensors.get(key) for key in (bias.activation, bias.weight))
        if activation is not None and weight is not None:
            value = _bias(float_model, bias, params).double()
            scale = value.abs() / (activation.scale.double() * LARGEST)
            scale = scale.reshape(-1, weight.scale.numel()).amax(0).float()
            # Several layers may read one weight.
            needed[bias.weight] = torch.maximum(scale, needed.get(bias.weight, scale))
    found = {}
    for key, scale in needed.items():
        tensor, before = placement.tensor(key), params.tensors[key]
        changes = _changes(before, scale, tensor.spec)
        if changes.any():
            scale = torch.where(changes, scale, before.scale)
            found[key] = _rescaled(float_weight(float_model, tensor), before, scale, tensor.spec)
    return params.with_tensors(found)


def _bias(float_model: FloatModel, bias: QuantizedBias, params: QuantParams) -> torch.Tensor:
    region = float_model.region(bias.region)
    target = str(node_names(region.graph)[bias.bias].target)
    own: torch.Tensor = operator.attrgetter(target)(region)
    return params.biases.get(parameter_name(bias.region, target), own.detach())


def _changes(params: TensorQParams, needed: torch.Tensor, spec: QSpec) -> torch.Tensor:
    """Which channels of a weight need another scale, (channels,)."""
    signed = signed_integers(params, spec)
    rows = signed.reshape(1, -1) if spec.axis is None else signed.movedim(spec.axis, 0).flatten(1)
    empty = (rows == 0).all(1) & (needed > TINY)
    return (empty | (needed > params.scale)) & (needed != params.scale)


def _rescaled(
    weight: torch.Tensor, before: TensorQParams, scale: torch.Tensor, spec: QSpec
) -> TensorQParams:
    """A weight with other scales; what keeps its scale keeps its integers."""
    signed = signed_integers(before, spec)
    fresh = signed_integers(quantize_weight(weight, scale, before.zero_point, spec), spec)
    signed = torch.where(along(scale == before.scale, signed, spec.axis), signed, fresh)
    return weight_of_signed(signed, scale, before.zero_point, spec)
