"""Copies of a model that can be changed and run while the model itself stays as it is."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from subbyte.graph.float_model import shared

M = TypeVar("M", bound=nn.Module)


def sharing_copy(model: M) -> M:
    """A copy in evaluation mode whose parameters and buffers share the model's memory.

    Its modules, their attributes and the tensors themselves are its own.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return evaluating(copy.deepcopy(model, {id(tensor): shared(tensor) for tensor in tensors}))


def evaluating(model: M) -> M:
    """The model in evaluation mode, with its graph modules, which refuse `eval`."""
    for part in model.modules():
        part.training = False
    return model
