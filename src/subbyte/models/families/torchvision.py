"""torchvision's classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.models.config import ModelConfig
from subbyte.models.registered import registered

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "torchvision"
TASK = "classification"


def names() -> list[str]:
    """Every classifier that the installed torchvision builds by name."""
    return sorted(registered("torchvision", "models"))


def load(config: ModelConfig) -> ModelSpec:
    """A classifier by name, with published weights, a checkpoint's or random ones."""
    from subbyte.models import torchvision

    return torchvision.load(config)
