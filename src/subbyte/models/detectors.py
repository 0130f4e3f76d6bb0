"""What is known of detectors of other makers: which modules are some, and how many labels."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection import ssd as torchvision_ssd

from subbyte.models.ssd import SSD

# What is a detector whatever the data are; of any other module of a user's the data tell.
DETECTORS = (SSD, FasterRCNN, FCOS, RetinaNet, torchvision_ssd.SSD)


def label_count(module: nn.Module) -> int | None:
    """How many labels a detector has, the background among them; `None` where it is unknown."""
    detector: Any = module
    if isinstance(module, SSD):
        return int(detector.num_classes)
    if isinstance(module, torchvision_ssd.SSD):
        return int(detector.head.classification_head.num_columns)
    if isinstance(module, RetinaNet | FCOS):
        return int(detector.head.classification_head.num_classes)
    if isinstance(module, FasterRCNN):
        return int(detector.roi_heads.box_predictor.cls_score.out_features)
    return None
