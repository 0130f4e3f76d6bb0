"""The parts of detectors by which they are known."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

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
