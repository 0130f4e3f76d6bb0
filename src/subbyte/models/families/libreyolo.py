"""libreyolo's detectors, whose names begin with "libreyolo/"; listed where it is installed."""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING

from subbyte.errors import SubbyteError, unknown
from subbyte.models.config import ModelConfig
from subbyte.models.libreyolo_names import known, named

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "libreyolo"
TASK = "detection"


def names() -> list[str]:
    """The detectors of libreyolo by the names of their weights, as libreyolo/LibreYOLOXn."""
    if util.find_spec("libreyolo") is None:
        return []
    return known()


def load(config: ModelConfig) -> ModelSpec:
    """A detector of libreyolo's with published weights, a checkpoint's or random ones."""
    check(config)
    from subbyte.models import libreyolo

    return libreyolo.load(config)


def require() -> None:
    """Raise `SubbyteError` unless libreyolo is installed."""
    if util.find_spec("libreyolo") is None:
        raise SubbyteError(
            "libreyolo, which models named libreyolo/NAME need, is not installed: "
            "pip install 'subbyte[libreyolo]'"
        )


def check(config: ModelConfig) -> None:
    """Refuse a name that libreyolo does not have, and weights of another name.

    Raises:
        SubbyteError: libreyolo is not installed, or has no such detector.
    """
    require()
    kind, size = named(str(config.name))
    weights = ("DEFAULT", f"{kind}{size}", f"{kind}{size}.pt")
    if config.weights is not None and config.weights not in weights:
        raise unknown(f"weights of {config.name}", config.weights, weights[:2])
