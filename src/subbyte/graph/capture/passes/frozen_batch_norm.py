"""Batch norm that was frozen, as torchvision's detectors have it, made an ordinary one."""

from __future__ import annotations

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def thaw(model: nn.Module) -> None:
    """Make each frozen batch norm of torchvision's an ordinary one, in place: those are folded."""
    for name, frozen in list(model.named_modules()):
        if isinstance(frozen, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps, device=frozen.weight.device)
            norm.load_state_dict(frozen.state_dict(), strict=False)
            model.set_submodule(name, norm.to(frozen.weight.dtype).eval())
