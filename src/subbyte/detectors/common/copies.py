"""Copies of a model that can be changed and run while the model itself stays as it is."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def sharing_copy(model: M) -> M:
    """A copy in evaluation mode with the model's own parameters and buffers.

    It takes no memory for tensors. Its modules and their attributes are its own.
    """
    own = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return evaluating(copy.deepcopy(model, dict(own)))


def evaluating(model: M) -> M:
    """The model in evaluation mode, with its graph modules, which refuse `eval`."""
    for part in model.modules():
        part.training = False
    return model
