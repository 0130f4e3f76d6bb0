"""The bundled detector: a small SSD for scenes of handwritten digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from subbyte.models.config import ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "bundled"
TASK = "detection"

MEMBER = "digit_scenes"  # of the SSD family: the same network, untrained
WEIGHTS = Path(__file__).parents[1] / "weights" / "digit_scenes.safetensors"


def names() -> list[str]:
    """The one name of this family."""
    return ["digit-scenes"]


def load(config: ModelConfig) -> ModelSpec:
    """The detector with its bundled weights, or with those of `config.checkpoint`."""
    from subbyte.models import ssd
    from subbyte.models.digits import CLASSES

    own = ModelConfig(
        name=MEMBER, checkpoint=config.checkpoint or WEIGHTS, num_classes=len(CLASSES) + 1
    )
    return replace(ssd.load(own), name="digit-scenes", classes=CLASSES)
