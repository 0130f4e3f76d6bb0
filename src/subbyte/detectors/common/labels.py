"""How many labels a detector has whose head is the user's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_SIDE = 64  # of the image on which a model runs, in pixels; the detector resizes it


@torch.no_grad()
def labels_scored(model: nn.Module, head: str, name: str | int) -> int | None:
    """How many labels a head scores, the background among them.

    Only the head's outputs tell it: their last dimension. The model runs on an empty image.

    Args:
        model: A detector that takes a list of images.
        head: Qualified name of the submodule that scores labels.
        name: Under which name, or at which place, it gives the scores.

    Returns:
        `None` where it gives none there.
    """
    found: list[int] = []
    like = next(iter(model.parameters()), torch.empty(0))

    def keep(_: nn.Module, __: object, outputs: object) -> None:
        given = outputs if isinstance(outputs, Mapping) else {}
        given = dict(enumerate(outputs)) if isinstance(outputs, list | tuple) else given
        if isinstance(given.get(name), Tensor):
            found.append(given[name].shape[-1])

    handle = model.get_submodule(head).register_forward_hook(keep)
    try:
        model([torch.zeros(3, _SIDE, _SIDE, device=like.device)])
    finally:
        handle.remove()
    return found[0] if found else None
