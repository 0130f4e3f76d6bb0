"""The bundled classifier of handwritten digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.models.config import ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "bundled"
TASK = "classification"


def names() -> list[str]:
    """The one name of this family."""
    return ["digits"]


def load(config: ModelConfig) -> ModelSpec:
    """The classifier with its bundled weights, or with those of `config.checkpoint`."""
    from subbyte.models import digits

    return digits.load(config)
