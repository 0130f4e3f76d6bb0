"""The bundled detector: a small SSD for scenes of handwritten digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from subbyte.models import ssd
from subbyte.models.config import ModelConfig
from subbyte.models.digits import CLASSES
from subbyte.models.spec import ModelSpec

MEMBER = "digit_scenes"  # of the SSD family: the same network, untrained
WEIGHTS = Path(__file__).parent / "weights" / "digit_scenes.safetensors"


def names() -> list[str]:
    """The one name of this family."""
    return ["digit-scenes"]


def load(config: ModelConfig) -> ModelSpec:
    """The detector with its bundled weights, or with those of `config.checkpoint`."""
    own = ModelConfig(
        name=MEMBER, checkpoint=config.checkpoint or WEIGHTS, num_classes=len(CLASSES) + 1
    )
    return replace(ssd.load(own), name="digit-scenes", classes=CLASSES)
