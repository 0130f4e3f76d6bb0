"""Small data sets on disk in COCO's, VOC's and YOLO's forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Draw = Callable[..., Path]
Refuses = Callable[..., AbstractContextManager[None]]
WriteVoc = Callable[..., Path]
WriteCoco = Callable[..., Path]

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>
<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


@pytest.fixture
def draw(draw: Draw) -> Draw:
    """The other tests' draw, by default for pictures of 40 × 30."""
    return partial(draw, size=(40, 30))


@pytest.fixture
def write_coco() -> WriteCoco:
    """write_coco(path, sizes, rows, categories): an instances file; rows are annotations.

    `sizes`: file name → (width, height), images numbered from 1; a row is (image, category, bbox)
    or a dictionary.
    """

    def write(
        path: Path,
        sizes: dict[str, tuple[int, int]],
        rows: Sequence[Any],
        categories: Sequence[tuple[int, str]] = ((3, "cat"), (7, "dog")),
    ) -> Path:
        annotations = [
            row
            if isinstance(row, dict)
            else {"id": i, "image_id": row[0], "category_id": row[1], "bbox": row[2]}
            for i, row in enumerate(rows, 1)
        ]
        images = [
            {"id": i, "file_name": name, "width": w, "height": h}
            for i, (name, (w, h)) in enumerate(sizes.items(), 1)
        ]
        listed = [{"id": number, "name": name} for number, name in categories]
        content = {"images": images, "annotations": annotations, "categories": listed}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def write_voc(draw: Draw) -> WriteVoc:
    """write_voc(root, split, images): images are name → list of (class, box[, difficult])."""

    def write(root: Path, split: str, images: dict[str, Sequence[Any]]) -> Path:
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for seed, (name, found) in enumerate(images.items()):
            draw(root / "JPEGImages" / f"{name}.jpg", seed)
            objects = "".join(
                OBJECT.format(*row[1], name=row[0], difficult=row[2] if len(row) > 2 else 0)
                for row in found
            )
            (root / "Annotations" / f"{name}.xml").write_text(
                "<annotation><size><width>40</width><height>30</height></size>"
                f"{objects}</annotation>"
            )
        listed = "".join(f"{name}\n" for name in images)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
        return root

    return write
