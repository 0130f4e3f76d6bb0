"""Which modules of other makers are detectors."""

from __future__ import annotations

from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection import ssd as torchvision_ssd

from subbyte.models.ssd import SSD

# What is a detector whatever the data are; of any other module of a user's the data tell.
DETECTORS = (SSD, FasterRCNN, FCOS, RetinaNet, torchvision_ssd.SSD)
