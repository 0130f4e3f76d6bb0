"""A model's positional arguments for one batch, and which of them are lists of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree


class Arguments(tuple[Any, ...]):
    """Positional arguments of which it is known whether they are lists of images.

    A list of tensors [C, H, W] has an image in each tensor, a list of tensors [N, T, C] has the
    whole batch in each; their form does not tell which. `tree_map` keeps what is known.

    Attributes:
        images: The positions of the arguments that are lists of images.
    """

    images: frozenset[int]

    def __new__(cls, args: Iterable[Any], images: Iterable[int]) -> Arguments:
        """The arguments `args`, those at `images` lists of images."""
        made = super().__new__(cls, args)
        made.images = frozenset(images)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Arguments, (tuple(self), self.images)


pytree.register_pytree_node(
    Arguments,
    lambda args: (list(args), args.images),
    Arguments,
    serialized_type_name="subbyte.utils.arguments.Arguments",
)


def could_be_images(argument: object) -> bool:
    """Whether an argument has the form of a list of images [C, H, W]."""
    return (
        isinstance(argument, list | tuple)
        and len(argument) > 0
        and all(isinstance(image, torch.Tensor) and image.dim() == 3 for image in argument)
    )


def image_lists(args: tuple[Any, ...]) -> frozenset[int]:
    """Which arguments are lists of images: what is known, and by their form where nothing is."""
    if isinstance(args, Arguments):
        return args.images
    return frozenset(i for i, arg in enumerate(args) if could_be_images(arg))
