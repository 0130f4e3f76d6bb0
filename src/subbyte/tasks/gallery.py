"""`gallery.json` of a variant: the few images that a reader of its report should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from subbyte.data.dataset import Images
from subbyte.data.images import large_allowed
from subbyte.utils import files

PICTURES = 20  # of a variant at most
LONG_SIDE = 448  # pixels: larger images are reduced
SMALL = 64  # pixels up to which an image is kept without loss
QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class Shown:
    """An image of the gallery.

    Attributes:
        number: Which evaluation image it is, from 0 on.
        said: What was said of it, as plain data.
    """

    number: int
    said: Mapping[str, Any]


def write_gallery(
    folder: Path, kind: str, dataset: Images, shown: Sequence[Shown], *, images: int, found: int
) -> None:
    """Write `gallery.json` and, in a folder `gallery`, a small picture of each image.

    Args:
        folder: The variant's.
        kind: What is said of the images: "answers" of a classifier, "boxes" of a detector.
        dataset: The evaluation images.
        shown: Those to show, the worst first.
        images: Among how many images they were looked for.
        found: How many images there are of their kind.
    """
    pictures = []
    for one in shown:
        picture = _picture(dataset, one.number)
        height, width = picture.shape[:2]
        small, file = _reduced(picture), f"gallery/{one.number}"
        file += ".png" if max(small.size) <= SMALL else ".jpg"
        (folder / file).parent.mkdir(exist_ok=True)
        small.save(folder / file, quality=QUALITY)  # of PNG it has no meaning
        about = {"image": one.number, "name": dataset.name(one.number), "file": file}
        pictures.append({**about, "width": width, "height": height, **one.said})
    content = {"schema": 1, "kind": kind, "images": images, "found": found, "pictures": pictures}
    files.write_json(folder / "gallery.json", content)


def _picture(dataset: Images, number: int) -> np.ndarray:
    """An image, uint8 [H, W, 3], as the model is given it but for the normalization."""
    with large_allowed():
        pixels = dataset.pixels(number)
    if pixels.shape[0] not in (1, 3):
        pixels = pixels[:1]
    return np.ascontiguousarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def _reduced(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    if max(image.size) > LONG_SIDE:
        image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return image
