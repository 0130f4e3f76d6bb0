"""Shapes that modules keep from the last call, to compute anew what depends on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def keeps_shapes(model: nn.Module) -> bool:
    """Whether a module has a tensor's shape as an attribute."""
    return any(_shapes(part) for part in model.modules())


@contextlib.contextmanager
def shapes_forgotten(model: nn.Module) -> Iterator[None]:
    """While this lasts, the shapes that modules keep are of no tensor, as before the first call.

    Code that asks whether its input still has the shape it keeps would compare the batch size with
    a number, and so fix it. It now takes the other way, in which nothing is compared.

    Args:
        model: The model.
    """
    kept = [(part, name, shape) for part in model.modules() for name, shape in _shapes(part)]
    try:
        for part, name, _ in kept:
            vars(part)[name] = torch.Size()
        yield
    finally:
        for part, name, shape in kept:
            vars(part)[name] = shape


def _shapes(part: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value) for name, value in vars(part).items() if isinstance(value, torch.Size)]
