"""timm's models, whose names begin with "timm/"; listed where timm is installed."""

from __future__ import annotations

import re
from importlib import util
from typing import TYPE_CHECKING

from subbyte.errors import SubbyteError, unknown
from subbyte.models.config import TIMM, ModelConfig
from subbyte.models.registered import registered

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "timm"
TASK = "classification"


def names() -> list[str]:
    """Every model that the installed timm builds, as timm/NAME, in timm's order."""
    return [f"{TIMM}{name}" for name in sorted(registered("timm", "models"), key=_natural)]


def load(config: ModelConfig) -> ModelSpec:
    """A timm model by its name behind "timm/", which may carry the tag of its weights."""
    require()
    from subbyte.models import timm

    return timm.load(config)


def require() -> None:
    """Raise `SubbyteError` unless timm is installed."""
    if util.find_spec("timm") is None:
        raise SubbyteError(
            "timm, which models named timm/NAME need, is not installed: pip install 'subbyte[timm]'"
        )


def check(config: ModelConfig) -> None:
    """Refuse a name that timm does not have.

    Raises:
        SubbyteError: timm is not installed, or has no such model.
    """
    require()
    name = str(config.name)
    if name.partition(".")[0] not in (known := names()):
        raise unknown("model", name, known)


def _natural(name: str) -> list[int | str]:
    """A key by which numbers in names are ordered as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]
