"""Which modules of other makers are detectors."""

from __future__ import annotations

from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection import ssd as torchvision_ssd

from subbyte.models.ssd import SSD

# These are detectors whatever the data are; any other module of a user's is one if its data are.
DETECTORS = (SSD, FasterRCNN, FCOS, RetinaNet, torchvision_ssd.SSD)
