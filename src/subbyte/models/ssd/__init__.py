"""The SSD family: one definition of a detector, put together in many ways."""

from __future__ import annotations

from subbyte.models.ssd.detector import SSD
from subbyte.models.ssd.loading import METADATA, load, names
from subbyte.models.ssd.settings import Settings

__all__ = ["METADATA", "SSD", "Settings", "load", "names"]
