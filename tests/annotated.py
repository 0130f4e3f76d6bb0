"""Small data sets of pictures with objects, in COCO's and Pascal VOC's forms, made in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from small_detectors import pictures

FACTORY = """\
from small_detectors import detector


def build(name="ssd"):
    return detector(name)
"""
NAMES = ("ant", "bee", "cow")
Row = tuple[int, list[float]]  # a label, from 1, and a box, x0, y0, x1, y1

_OBJECT = """<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{0}</xmin>
<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def write_images(
    folder: Path, count: int, seed: int, size: tuple[int, int] = (64, 64), ending: str = "png"
) -> list[torch.Tensor]:
    """Write pictures 0.png, 1.png, …; return them as they are in the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i, picture in enumerate(pictures(count, size, seed)):
        pixels = (picture * 255).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i}.{ending}")
        found.append(pixels.float() / 255)
    return found


def seen_by(model: nn.Module, images: Sequence[torch.Tensor], most: int = 4) -> list[list[Row]]:
    """What a detector itself finds with its highest scores: objects that can be found."""
    with torch.no_grad():
        found = model(list(images))
    rows = []
    for one in found:
        whole = one["boxes"].round()
        good = ((whole[:, 2:] - whole[:, :2]) >= 2).all(1) & (one["labels"] > 0)
        kept = zip(one["labels"][good].tolist(), whole[good].tolist(), strict=True)
        rows.append(list(kept)[:most])
    return rows


def write_coco(path: Path, rows: Sequence[Sequence[Row]], sizes: Sequence[tuple[int, int]]) -> Path:
    """An instances file of the images 0.png, 1.png, … of `sizes` (height, width), ids from 1."""
    images = [
        {"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height}
        for i, (height, width) in enumerate(sizes)
    ]
    annotations = []
    for i, own in enumerate(rows, 1):
        for label, (x0, y0, x1, y1) in own:
            box = [x0, y0, x1 - x0, y1 - y0]
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": i, "category_id": label, "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3]}
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_of_sizes(root: Path, model: nn.Module, sizes: Sequence[tuple[int, int]]) -> Path:
    """A data set `root`/coco with the splits train and val, a picture of each size (height, width).

    The objects are what the model itself finds.
    """
    for seed, split in enumerate(("train", "val"), 1):
        images = []
        for i, size in enumerate(sizes):
            images += write_images(root / "one", 1, seed + 10 * i, size)
            target = root / f"coco/{split}/{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / "one/0.png").rename(target)
        path = root / f"coco/annotations/instances_{split}.json"
        write_coco(path, seen_by(model, images), sizes)
    return root / "coco"


def coco_set(root: Path, model: nn.Module, count: int = 4) -> Path:
    """A data set with the splits train and val, of what the model itself finds."""
    for seed, split in enumerate(("train", "val"), 1):
        images = write_images(root / split, count, seed)
        rows = seen_by(model, images)
        sizes = [(64, 64)] * count
        write_coco(root / "annotations" / f"instances_{split}.json", rows, sizes)
    return root


def voc_set(root: Path, model: nn.Module, count: int = 3) -> Path:
    """The same in Pascal VOC's form; both splits have the same images."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images = write_images(root / "JPEGImages", count, 5, ending="jpg")
    decoded = [
        torch.from_numpy(np.array(Image.open(root / "JPEGImages" / f"{i}.jpg")))
        for i in range(count)
    ]
    images = [image.permute(2, 0, 1).float() / 255 for image in decoded]
    for i, own in enumerate(seen_by(model, images)):
        # VOC counts pixels from 1, and a box holds its last ones.
        objects = "".join(
            _OBJECT.format(int(x0) + 1, int(y0) + 1, int(x1), int(y1), name=NAMES[label - 1])
            for label, (x0, y0, x1, y1) in own
        )
        size = "<size><width>64</width><height>64</height></size>"
        text = f"<annotation>{size}{objects}</annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(text)
    for split in ("train", "val"):
        listed = "".join(f"{i}\n" for i in range(count))
        (root / "ImageSets/Main" / f"{split}.txt").write_text(listed)
    (root / "names.txt").write_text("\n".join(NAMES))
    return root
