"""What reduces axes: sums, means, extremes, and the places of extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table, numbers

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(function: Reduction) -> Operator:
    """A reduction over axes, which are an attribute in old files and an operand in new ones."""

    def call(node: Node, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
        given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
        if not given and node.get("noop_with_empty_axes", 0):  # each value by itself
            return function(x.unsqueeze(-1), [x.dim()], False)
        dims = [axis % x.dim() for axis in given] if given else list(range(x.dim()))
        return function(x, dims, bool(node.get("keepdims", 1)))

    return Operator(call, numbers(1))


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _norm(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, 2, dims, keep)
    return norm


def _place_of(function: Any) -> Operator:
    """Where an extreme is: the first place, or the last if the node says so."""

    def call(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            found: Tensor = function(x, axis, keepdim=keep)
            return found
        last: Tensor = x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
        return last

    return Operator(call)


def _cumsum(node: Node, x: Tensor, axis: np.ndarray) -> Tensor:
    """Sums of all values up to each."""
    dim = int(axis.item())
    x = x.flip(dim) if node.get("reverse", 0) else x
    total = x.cumsum(dim)
    total = (total - x).to(x.dtype) if node.get("exclusive", 0) else total.to(x.dtype)
    return total.flip(dim) if node.get("reverse", 0) else total


def _top_k(node: Node, x: Tensor, count: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """The largest values of an axis and their places; before opset 10 `k` is an attribute."""
    k = node.get("k") if count is None else count.reshape(-1)[0]
    largest, ordered = bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    values, places = torch.topk(x, k, node.get("axis", -1), largest, ordered)
    return values, places


OPERATORS: Table = {
    "ArgMax": _place_of(torch.argmax),
    "ArgMin": _place_of(torch.argmin),
    "CumSum": Operator(_cumsum, numbers(1)),
    "ReduceL1": _reduce(lambda x, dims, keep: x.abs().sum(dims, keepdim=keep)),
    "ReduceL2": _reduce(_norm),
    "ReduceLogSum": _reduce(lambda x, dims, keep: x.sum(dims, keepdim=keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, dims, keep: x.logsumexp(dims, keep)),
    "ReduceMax": _reduce(lambda x, dims, keep: x.amax(dims, keep)),
    "ReduceMean": _reduce(lambda x, dims, keep: x.mean(dims, keep)),
    "ReduceMin": _reduce(lambda x, dims, keep: x.amin(dims, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, dims, keep: x.sum(dims, keep, dtype=x.dtype)),
    "ReduceSumSquare": _reduce(lambda x, dims, keep: x.square().sum(dims, keepdim=keep)),
    "TopK": Operator(_top_k, numbers(1)),
}
