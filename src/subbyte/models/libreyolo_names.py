"""The names of libreyolo's detectors."""

from __future__ import annotations

import re

from subbyte.errors import unknown
from subbyte.models.config import LIBREYOLO

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


def known() -> list[str]:
    """Every detector by the name of its weights, as libreyolo/LibreYOLOXn."""
    return [f"{LIBREYOLO}{kind}{size}" for kind, sizes in SIZES.items() for size in sizes]


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
    raise unknown("model", name, known())


def _plain(name: str) -> str:
    """A name without what people write in several ways: YOLOv9-t, yolo9t, RT-DETR-r18, nano."""
    name = name.lower().removeprefix("libre")
    for word, letter in _WORDS.items():
        if name.endswith(word):
            name = f"{name.removesuffix(word)}{letter}"
    return re.sub(r"^yolov(?=\d)", "yolo", re.sub(r"[-_. ]", "", name))
