"""A data set read as an experiment reads it: found, then settled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subbyte.data.detection.coco import FoundImages, find_coco
from subbyte.data.detection.listing import Listing, settle
from subbyte.data.detection.voc import find_voc
from subbyte.data.detection.yolo import find_yolo
from subbyte.data.images import image_files


def read_coco(images: Path, annotations: Path) -> Listing:
    """The images of a folder and what a JSON file in COCO's form says of them."""
    return _settled(find_coco([images], annotations))


def read_voc(root: Path, split: str, classes: Sequence[str] | None = None) -> Listing:
    """The images of a split, and what their XML files say of them."""
    return _settled(find_voc(root, split, classes))


def read_yolo(images: Path, labels: Path | None = None, *, classes: Sequence[str]) -> Listing:
    """The images of a folder, and what text files of their names say of them."""
    folders = None if labels is None else (images, labels)
    return _settled(find_yolo(image_files(images), classes, folders))


def _settled(found: FoundImages) -> Listing:
    return settle(found.annotated, found.classes, found.category_ids)
