"""libreyolo's detectors, whose names begin with "libreyolo/"; listed where it is installed."""

from __future__ import annotations

import re
from importlib import util
from typing import TYPE_CHECKING

from subbyte.errors import SubbyteError, unknown
from subbyte.models.config import LIBREYOLO, ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "libreyolo"
TASK = "detection"

_NSMLX = ("n", "s", "m", "l", "x")
# libreyolo's classes, of which it is known what they give, and their sizes.
SIZES: dict[str, tuple[str, ...]] = {
    "LibreYOLOX": ("n", "t", "s", "m", "l", "x"),
    "LibreYOLO9": ("t", "s", "m", "c"),
    "LibreYOLO9E2E": ("t", "s", "m", "c"),
    "LibreYOLO9P2": ("t", "s"),
    "LibreYOLO7": ("b",),
    "LibreYOLONAS": ("s", "m", "l"),
    "LibrePPYOLOE": ("s", "m", "l", "x"),
    "LibrePICODET": ("s", "m", "l"),
    "LibreRTMDet": ("t", "s", "m", "l", "x"),
    "LibreRTDETR": ("r18", "r34", "r50", "r50m", "r101", "l", "x"),
    "LibreRTDETRv2": ("r18", "r34", "r50", "r50m", "r101"),
    "LibreRTDETRv4": ("s", "m", "l", "x"),
    "LibreDFINE": _NSMLX,
    "LibreDEIM": _NSMLX,
    "LibreDEIMv2": ("atto", "femto", "pico", *_NSMLX),
    "LibreEC": ("s", "m", "l", "x"),
    "LibreGTR": ("s", "m", "l", "x"),
    "LibreTinyFormer": ("s", "m", "l", "x", "xl"),
}
_WORDS = {"nano": "n", "tiny": "t", "small": "s", "medium": "m", "large": "l"}


def names() -> list[str]:
    """The detectors of libreyolo by the names of their weights, as libreyolo/LibreYOLOXn."""
    if util.find_spec("libreyolo") is None:
        return []
    return [f"{LIBREYOLO}{kind}{size}" for kind, sizes in SIZES.items() for size in sizes]


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
    known = ("DEFAULT", f"{kind}{size}", f"{kind}{size}.pt")
    if config.weights is not None and config.weights not in known:
        raise unknown(f"weights of {config.name}", config.weights, known[:2])


def named(name: str) -> tuple[str, str]:
    """The class of a model and its size: of "libreyolo/LibreYOLOXn", "libreyolo/yolox-n" and so on.

    Raises:
        SubbyteError: libreyolo has no such detector.
    """
    wanted = _plain(name.removeprefix(LIBREYOLO).removesuffix(".pt"))
    for kind, sizes in SIZES.items():
        for size in sizes:
            if wanted == _plain(f"{kind}{size}"):
                return kind, size
    raise unknown("model", name, names())


def _plain(name: str) -> str:
    """A name without what people write in several ways: YOLOv9-t, yolo9t, RT-DETR-r18, nano."""
    name = name.lower().removeprefix("libre")
    for word, letter in _WORDS.items():
        if name.endswith(word):
            name = f"{name.removesuffix(word)}{letter}"
    return re.sub(r"^yolov(?=\d)", "yolo", re.sub(r"[-_. ]", "", name))
