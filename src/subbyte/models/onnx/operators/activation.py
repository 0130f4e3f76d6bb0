"""Activation functions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table, numbers


def _clip(node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Limits, which before opset 11 are attributes."""
    least = node.get("min") if low is None else low.item()
    most = node.get("max") if high is None else high.item()
    least = None if least is None or least < -3e38 else least
    most = None if most is None or most > 3e38 else most
    if (least, most) == (0, 6):
        return F.relu6(x)
    if (least, most) == (0, None):
        return F.relu(x)
    if least is None and most is None:
        return x
    return torch.clamp(x, least, most)


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """X where it is positive, else slope · x."""
    del node
    if slope.numel() == 1 or (slope.dim() == x.dim() - 1 and slope.numel() == slope.shape[0]):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x > 0, x, slope * x)


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    """X where it is positive, else alpha · x."""
    return F.leaky_relu(x, node.get("alpha", 0.01))


def _elu(node: Node, x: Tensor) -> Tensor:
    """X where it is positive, else alpha · (eˣ − 1)."""
    return F.elu(x, node.get("alpha", 1.0))


def _selu(node: Node, x: Tensor) -> Tensor:
    """ELU with a gain."""
    alpha = node.get("alpha", 1.67326319217681884765625)
    result: Tensor = F.elu(x, alpha) * node.get("gamma", 1.05070102214813232421875)
    return result


def _celu(node: Node, x: Tensor) -> Tensor:
    """max(0, x) + min(0, alpha · (e^(x / alpha) − 1))."""
    return F.celu(x, node.get("alpha", 1.0))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """Alpha · x + beta, limited to [0, 1]."""
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _gelu(node: Node, x: Tensor) -> Tensor:
    """X times the normal distribution's integral up to x."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _softmax(node: Node, x: Tensor) -> Tensor:
    """Softmax over an axis; before opset 13 over all axes from it on."""
    return _along(torch.softmax, node, x)


def _log_softmax(node: Node, x: Tensor) -> Tensor:
    """Its logarithm."""
    return _along(torch.log_softmax, node, x)


def _swish(node: Node, x: Tensor) -> Tensor:
    """X · sigmoid(alpha · x)."""
    alpha = node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """X where it is above alpha, else 0."""
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


def _shrink(node: Node, x: Tensor) -> Tensor:
    """0 where |x| is up to lambd, else bias nearer to 0."""
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    negative = torch.where(x < -limit, x + bias, torch.zeros_like(x))
    return torch.where(x > limit, x - bias, negative)


def _hardmax(node: Node, x: Tensor) -> Tensor:
    """1 at the first largest value of an axis, else 0."""

    def one_hot(values: Tensor, axis: int) -> Tensor:
        best = values.argmax(axis, keepdim=True)
        return torch.zeros_like(values).scatter(axis, best, 1.0)

    return _along(one_hot, node, x)


def _along(function: Any, node: Node, x: Tensor) -> Tensor:
    """A function along an axis, by the rules of the node's opset."""
    axis = node.get("axis", 1 if node.opset < 13 else -1)
    axis = axis % max(x.dim(), 1)
    behind = x.shape[axis + 1 :]
    if node.opset >= 13 or all(isinstance(n, int) and n == 1 for n in behind):
        result: Tensor = function(x, axis)
        return result
    flat: Tensor = function(torch.flatten(x, axis), axis)
    return flat.reshape(x.shape)


def _plain(function: Any) -> Operator:
    def call(node: Node, x: Tensor) -> Tensor:
        del node
        result: Tensor = function(x)
        return result

    return Operator(call)


OPERATORS: Table = {
    "Celu": Operator(_celu),
    "Clip": Operator(_clip, numbers(1, 2)),
    "Elu": Operator(_elu),
    "Gelu": Operator(_gelu),
    "HardSigmoid": Operator(_hard_sigmoid),
    "HardSwish": _plain(F.hardswish),
    "Hardmax": Operator(_hardmax),
    "LeakyRelu": Operator(_leaky_relu),
    "LogSoftmax": Operator(_log_softmax),
    "Mish": _plain(F.mish),
    "PRelu": Operator(_prelu),
    "Relu": _plain(F.relu),
    "Selu": Operator(_selu),
    "Shrink": Operator(_shrink),
    "Sigmoid": _plain(torch.sigmoid),
    "Softmax": Operator(_softmax),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Swish": Operator(_swish),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": Operator(_thresholded_relu),
    "com.microsoft::Gelu": Operator(_gelu),
    "com.microsoft::QuickGelu": Operator(
        lambda node, x: x * torch.sigmoid(x * node.get("alpha", 1.702))
    ),
}
