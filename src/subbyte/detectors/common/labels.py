"""How many labels a detector has whose head is the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_SIDE = 64  # of the image on which a model runs, in pixels; the detector resizes it


@torch.no_grad()
def labels_scored(model: nn.Module, head: str, scores: Callable[[Any], Tensor]) -> int:
    """How many labels a head scores, the background among them.

    Only the head's outputs tell it: their last dimension. The model runs on an empty image.

    Args:
        model: A detector that takes a list of images.
        head: Qualified name of the submodule that scores labels.
        scores: From what this submodule gives to its scores, labels in the last dimension.
    """
    found: list[int] = []
    like = next(iter(model.parameters()), torch.empty(0))
    handle = model.get_submodule(head).register_forward_hook(
        lambda _, __, outputs: found.append(scores(outputs).shape[-1])
    )
    try:
        model([torch.zeros(3, _SIDE, _SIDE, device=like.device)])
    finally:
        handle.remove()
    return found[0]
