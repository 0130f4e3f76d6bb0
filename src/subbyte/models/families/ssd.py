"""The SSDs whose checkpoints three public projects have published, and those trained here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.models.config import ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "ssd"
TASK = "detection"


def names() -> list[str]:
    """The members of the family, as `subbyte.models.ssd.members` has them."""
    return [
        *(f"nvidia_ssd300_resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        "ssd300_vgg16_amdegroot",
        "mb1_ssd",
        "mb1_ssd_lite",
        "mb2_ssd_lite",
        "vgg16_ssd",
        "digit_scenes",
        "sq_ssd_lite",
    ]


def load(config: ModelConfig) -> ModelSpec:
    """An SSD by name, with a checkpoint's weights or random ones."""
    from subbyte.models import ssd

    return ssd.load(config)
