"""Subbyte: quantization of image classifiers and detectors, from 8 bits down to 2, with proof."""

from __future__ import annotations

from subbyte.api import export, layers, load, quantize, save
from subbyte.errors import SubbyteError
from subbyte.recipe import Recipe
from subbyte.version import __version__

__all__ = [
    "Recipe",
    "SubbyteError",
    "__version__",
    "export",
    "layers",
    "load",
    "quantize",
    "save",
]
