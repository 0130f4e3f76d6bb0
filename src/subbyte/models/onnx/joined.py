"""Whether what an operator gives for two batches is what it gives for each, joined."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

TOLERANCE = 1e-3  # of the largest value: one operator, other sums


def joined(first: Tensor, second: Tensor, both: Tensor) -> tuple[Tensor, int] | None:
    """Two results as one, along the axis that makes them what both batches gave together.

    Args:
        first: For the first batch.
        second: For the second.
        both: For both.

    Returns:
        The two together, and how many values lie before the batch; `None`: they are not that.
    """
    if first.shape == both.shape:
        return (first, 1) if same(first, second) and same(first, both) else None
    if first.dim() != both.dim():
        return None
    axes = [i for i in range(first.dim()) if first.shape[i] != both.shape[i]]
    if len(axes) != 1 or both.shape[axes[0]] != 2 * first.shape[axes[0]]:
        return None
    axis = axes[0]
    for whole, outer in _joins(first, second, axis):
        if same(whole, both):
            return whole, outer * math.prod(first.shape[:axis])
    return None


def _joins(first: Tensor, second: Tensor, axis: int) -> Iterator[tuple[Tensor, int]]:
    """One batch behind the other, and image by image within what an axis was merged of.

    Each with how much of the axis lies before the batch.
    """
    length = first.shape[axis]
    for inner in [n for n in range(length, 0, -1) if length % n == 0]:
        apart = [
            x.reshape([*x.shape[:axis], length // inner, inner, *x.shape[axis + 1 :]])
            for x in (first, second)
        ]
        shape = [*first.shape[:axis], 2 * length, *first.shape[axis + 1 :]]
        yield torch.cat(apart, axis + 1).reshape(shape), length // inner


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold the same, up to what another order of sums changes."""
    if left.shape != right.shape:
        return False
    if not left.is_floating_point() or not left.numel():
        return torch.equal(left, right)
    largest, difference = left.abs().max().item(), (left - right).abs().max().item()
    if math.isfinite(largest + difference):
        return difference <= TOLERANCE * largest
    return torch.allclose(left, right, TOLERANCE, equal_nan=True)
