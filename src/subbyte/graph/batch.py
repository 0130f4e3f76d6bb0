"""The images in a model's positional arguments: how many, doubled, and some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError

T = TypeVar("T")


def batch_size(args: tuple[Any, ...]) -> int:
    """Length of the first dimension of the first tensor in `args`."""
    for leaf in pytree.tree_leaves(args):
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
            return int(leaf.shape[0])
    raise SubbyteError("the batch holds no tensor: give the model's input as a tensor")


def at_least_two(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`args` with a batch of one doubled: `torch.export` takes a size of 1 for a constant."""
    size = batch_size(args)
    if size != 1:
        return args
    return map_batch(args, size, lambda x: torch.cat([x, x]))


def portions(
    batches: Iterable[tuple[Any, ...]], images: int, at_once: int
) -> Iterator[tuple[Any, ...]]:
    """The first so many images of `batches`, so many at once, as positional arguments."""
    for args, chosen in parts(batches, batch_size, images, at_once):
        yield map_batch(args, batch_size(args), lambda x: x[chosen])  # noqa: B023


def parts(
    batches: Iterable[T], size_of: Callable[[T], int], images: int, at_once: int
) -> Iterator[tuple[T, slice]]:
    """The first so many images of `batches`, so many at once: each batch, and which of it."""
    left = images
    for batch in batches:
        size = size_of(batch)
        for start in range(0, min(size, left), at_once):
            yield batch, slice(start, min(start + at_once, size, left))
        left -= size
        if left <= 0:
            return


def in_batch(leaf: object, size: int) -> bool:
    """Whether `leaf` has an entry for each of `size` images."""
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == size


def map_batch(
    args: tuple[Any, ...], size: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[Any, ...]:
    """`args` with every tensor that has an entry for each of `size` images changed."""
    mapped: tuple[Any, ...] = pytree.tree_map(lambda x: change(x) if in_batch(x, size) else x, args)
    return mapped
