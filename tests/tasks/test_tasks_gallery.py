"""The pictures of a variant: which are kept, and in what form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from subbyte.data.dataset import ImageArrays
from subbyte.data.preprocessing import Preprocessing
from subbyte.tasks.gallery import LONG_SIDE, Shown, write_gallery

if TYPE_CHECKING:
    from collections.abc import Sequence

GREY = Preprocessing(mean=(0.5,), std=(0.25,))
COLOUR = Preprocessing()


def gallery(folder: Path, pixels: np.ndarray, how: Preprocessing, numbers: Sequence[int]) -> dict:
    shown = [Shown(number, {"label": number}) for number in numbers]
    write_gallery(folder, "answers", ImageArrays(pixels, None, how), shown, images=9, found=4)
    return dict(json.loads((folder / "gallery.json").read_text()))


def test_small_pictures_are_kept_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    found = gallery(tmp_path, pixels, GREY, [2, 0])
    assert [picture["image"] for picture in found["pictures"]] == [2, 0]
    assert (found["images"], found["found"]) == (9, 4)
    first = found["pictures"][0]
    assert (first["width"], first["height"], first["label"]) == (8, 8, 2)
    kept = np.asarray(Image.open(tmp_path / first["file"]))
    assert (kept == pixels[2][..., None]).all()


def test_large_pictures_are_reduced_and_keep_their_ratio(tmp_path: Path) -> None:
    pixels = np.full((1, 600, 1200, 3), (200, 100, 50), np.uint8)
    (picture,) = gallery(tmp_path, pixels, COLOUR, [0])["pictures"]
    assert (picture["width"], picture["height"]) == (1200, 600), "boxes are in its own pixels"
    kept = Image.open(tmp_path / picture["file"])
    assert (kept.format, kept.size) == ("JPEG", (LONG_SIDE, LONG_SIDE // 2))
    assert np.abs(np.asarray(kept).astype(int) - (200, 100, 50)).max() < 6


def test_where_nothing_differs_there_are_no_pictures(tmp_path: Path) -> None:
    found = gallery(tmp_path, np.zeros((1, 8, 8), np.uint8), GREY, [])
    assert found["pictures"] == []
    assert not (tmp_path / "gallery").exists()
