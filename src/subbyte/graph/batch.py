"""The images in a model's positional arguments: how many, doubled, and some at a time.

An argument that is a list of images, each a tensor [C, H, W] of a size of its own, has one entry
for each; of any other, the tensors whose first dimension is the batch have. `Arguments` says which
are lists of images, and what is made of it says so too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.utils.arguments import Arguments, image_lists

T = TypeVar("T")
IMAGES_AT_ONCE = 32  # through a network, where its values are not kept
EVERY = 5  # of so many chunks of images, the last one is held out


def batch_size(args: tuple[Any, ...]) -> int:
    """How many images: of the first list of images, or by the first dimension of a tensor."""
    lists = image_lists(args)
    for i, arg in enumerate(args):
        rows = len(arg) if i in lists else leading(arg)
        if rows is not None:
            return rows
    raise SubbyteError("the batch holds no tensor: give the model's input as a tensor")


def leading(value: Any) -> int | None:
    """Length of the first dimension of the first tensor in `value`; `None` where there is none."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
            return int(leaf.shape[0])
    return None


def at_least_two(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`args` with a batch of one doubled: `torch.export` takes a size of 1 for a constant."""
    size = batch_size(args)
    if size != 1:
        return args
    lists = image_lists(args)
    doubled = (
        [*arg, *arg] if i in lists else _mapped(arg, 1, lambda x: torch.cat([x, x]))
        for i, arg in enumerate(args)
    )
    return Arguments(doubled, lists)


def in_chunks(
    batches: Iterable[tuple[Any, ...]], images: int, at_once: int
) -> Iterator[tuple[Any, ...]]:
    """The first images of some batches, a few at a time, as positional arguments.

    Args:
        batches: The positional arguments of each batch.
        images: How many images are taken.
        at_once: How many of them a chunk holds at most.
    """
    for args, chosen in parts(batches, batch_size, images, at_once):
        yield cut(args, chosen)


def parts(
    batches: Iterable[T], size_of: Callable[[T], int], images: int, at_once: int
) -> Iterator[tuple[T, slice]]:
    """The first images of some batches, a few at a time: each batch, and which of its images.

    Args:
        batches: Batches of any kind.
        size_of: How many images a batch holds.
        images: How many images are taken.
        at_once: How many of them at a time, at most.
    """
    left = images
    for batch in batches:
        size = size_of(batch)
        for start in range(0, min(size, left), at_once):
            yield batch, slice(start, min(start + at_once, size, left))
        left -= size
        if left <= 0:
            return


def cut(args: tuple[Any, ...], chosen: slice) -> tuple[Any, ...]:
    """`args` with some of their images alone."""
    size, lists = batch_size(args), image_lists(args)
    some = (
        list(arg[chosen]) if i in lists else _mapped(arg, size, lambda x: x[chosen])
        for i, arg in enumerate(args)
    )
    return Arguments(some, lists)


def pixels_of(args: tuple[Any, ...]) -> int:
    """How many pixels an image such as those in `args` has, at least 1; all inputs together."""
    lists = image_lists(args)
    areas: list[int] = [
        sum(x.shape[-2:].numel() for x in arg)
        if i in lists
        else sum(len(x) * x.shape[-2:].numel() for x in pytree.tree_leaves(arg) if _is_planes(x))
        for i, arg in enumerate(args)
    ]
    return max(1, sum(areas) // max(batch_size(args), 1))


def _is_planes(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() == 4


def images_of_pixels(args: tuple[Any, ...], pixels: int) -> int:
    """How many images such as those in `args` have so many pixels together; at least 1."""
    return max(1, pixels // pixels_of(args))


def is_held_out(chunk: int) -> bool:
    """Whether a chunk of images judges what was fitted to the others, by its number."""
    return chunk % EVERY == EVERY - 1


def in_batch(leaf: object, size: int) -> bool:
    """Whether `leaf` has an entry for each of `size` images."""
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == size


def _mapped(arg: Any, size: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`arg` with every tensor that has an entry for each of `size` images changed."""
    return pytree.tree_map(lambda x: change(x) if in_batch(x, size) else x, arg)
