"""torchvision's detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.models.config import ModelConfig
from subbyte.models.registered import registered

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "torchvision detectors"
TASK = "detection"

OTHER_TASKS = ("maskrcnn_", "keypointrcnn_")


def names() -> list[str]:
    """Every detector of boxes alone that the installed torchvision builds by name."""
    known = sorted(registered("torchvision", "models/detection"))
    return [name for name in known if not name.startswith(OTHER_TASKS)]


def load(config: ModelConfig) -> ModelSpec:
    """A detector by name, with published weights, a checkpoint's or random ones."""
    from subbyte.models import torchvision_detectors

    return torchvision_detectors.load(config)
