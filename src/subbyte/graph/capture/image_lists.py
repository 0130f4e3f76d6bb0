"""Whether a model's argument is a list of images, or a list of tensors of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.graph.capture.export import copied
from subbyte.utils.arguments import Arguments, image_lists


def with_image_lists(model: nn.Module, args: tuple[Any, ...]) -> Arguments:
    """The arguments, with the lists of images among them, unless these are known already.

    Args:
        model: The model; it is left as it is.
        args: Its positional arguments for one batch.
    """
    if isinstance(args, Arguments):
        return args
    lists = image_lists(args)
    return Arguments(args, () if lists and _hold_batches(model, args, lists) else lists)


def _hold_batches(model: nn.Module, args: tuple[Any, ...], lists: frozenset[int]) -> bool:
    """Whether the first length of the tensors in lists is the batch's, as in [N, T, C].

    Then the model takes another first length and gives another one. Of images it is the number of
    channels, on which no model's outputs depend in this way.
    """
    firsts = {len(x) for i in lists for x in args[i]}
    if len(firsts) > 1:
        return False
    first = firsts.pop()
    if not first:
        return False
    model = copied(model)
    numbers = [i % first for i in range(first + 1)]
    longer = pytree.tree_map(
        lambda x: x[numbers] if isinstance(x, torch.Tensor) and x.dim() and len(x) == first else x,
        tuple(args),
    )
    with torch.no_grad(), torch.random.fork_rng():
        try:
            given = pytree.tree_leaves(model(*longer))
        except Exception:  # images of that many channels
            return False
        own = pytree.tree_leaves(model(*args))
    return len(own) == len(given) and any(map(_follows, own, given))


def _follows(own: Any, given: Any) -> bool:
    """Whether an output became longer by one."""
    tensors = isinstance(own, torch.Tensor) and isinstance(given, torch.Tensor)
    return tensors and own.dim() > 0 and given.dim() > 0 and len(given) == len(own) + 1
