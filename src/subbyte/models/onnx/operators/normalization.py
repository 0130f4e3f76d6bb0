"""Normalizations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table


def _batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """By fixed statistics."""
    if node.get("training_mode", 0):
        raise SubbyteError(
            f"the node {node} normalizes by the batch, as in training: export the model in "
            "evaluation mode"
        )
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Over all axes from one on."""
    axis, epsilon = node.get("axis", -1) % x.dim(), node.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    if tuple(scale.shape) == tuple(shape) and (bias is None or tuple(bias.shape) == tuple(shape)):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    normal = F.layer_norm(x, shape, None, None, epsilon) * scale
    return normal if bias is None else normal + bias


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """By the root of the mean square, over all axes from one on."""
    axis = node.get("axis", -1) % x.dim()
    dims = list(range(axis, x.dim()))
    mean = x.square().mean(dims, keepdim=True)
    return x * torch.rsqrt(mean + node.get("epsilon", 1e-5)) * scale


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each channel of each image by itself."""
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, node.get("epsilon", 1e-5))


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Groups of channels of each image; before opset 21 scale and bias are those of groups."""
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)
    if scale.shape[0] == x.shape[1]:
        return F.group_norm(x, groups, scale, bias, epsilon)
    times = int(x.shape[1]) // groups
    return F.group_norm(
        x, groups, scale.repeat_interleave(times), bias.repeat_interleave(times), epsilon
    )


def _lrn(node: Node, x: Tensor) -> Tensor:
    """Each value by the squares of the channels around it."""
    size = node.get("size")
    plane = x if x.dim() == 4 else torch.flatten(x, 2).unsqueeze(-1)
    squares = F.pad(plane.square().unsqueeze(1), [0, 0, 0, 0, (size - 1) // 2, size // 2])
    mean = F.avg_pool3d(squares, (size, 1, 1), stride=1).squeeze(1)
    mean = mean if x.dim() == 4 else mean.reshape(x.shape)
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    result: Tensor = x / (bias + alpha * mean) ** beta
    return result


def _lp_normalization(node: Node, x: Tensor) -> Tensor:
    """To length 1 along an axis."""
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    result: Tensor = x / norm.clamp_min(1e-12)
    return result


def _mean_variance(node: Node, x: Tensor) -> Tensor:
    """To mean 0 and variance 1 along some axes."""
    axes = list(node.get("axes", (0, 2, 3)))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


OPERATORS: Table = {
    "BatchNormalization": Operator(_batch_norm, weight=1),
    "GroupNormalization": Operator(_group_norm, weight=1),
    "InstanceNormalization": Operator(_instance_norm, weight=1),
    "LRN": Operator(_lrn),
    "LayerNormalization": Operator(_layer_norm, weight=1),
    "LpNormalization": Operator(_lp_normalization),
    "MeanVarianceNormalization": Operator(_mean_variance),
    "RMSNormalization": Operator(_rms_norm, weight=1),
}
