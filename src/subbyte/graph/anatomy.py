"""The parts of detectors by which they are known, and batch norm that was frozen."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FrozenBatchNorm2d

WHOLE = ("",)
ATTRIBUTE = "subbyte_regions"  # by which a model names its own regions
_ONE_STAGE = ("backbone", "head")
_TWO_STAGES = ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")


def known_regions(model: nn.Module) -> tuple[str, ...] | None:
    """The regions that a model names itself, or those of torchvision's detectors; else `None`."""
    own = getattr(model, ATTRIBUTE, None)
    if own is not None:
        return tuple(own)
    if isinstance(model, SSD | RetinaNet | FCOS):
        return _ONE_STAGE
    return _TWO_STAGES if isinstance(model, FasterRCNN) else None


def thaw(model: nn.Module) -> None:
    """Make each frozen batch norm of torchvision's an ordinary one, in place: those are folded."""
    for name, frozen in list(model.named_modules()):
        if isinstance(frozen, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps, device=frozen.weight.device)
            norm.load_state_dict(frozen.state_dict(), strict=False)
            model.set_submodule(name, norm.to(frozen.weight.dtype).eval())
