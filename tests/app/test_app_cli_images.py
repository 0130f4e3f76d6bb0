"""A run on a folder of odd images: each is seen as a person would see it, and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

BAND = [4, 16]  # height and width of the crop
DARK, BRIGHT = 40, 220


def draw_odd(own: Own) -> None:
    """Dark and bright images of all kinds, each of which looks otherwise if it is read wrongly."""
    dark, bright = own.path / "pictures/val/dark", own.path / "pictures/val/bright"
    Image.new("RGB", (1, 1), (DARK,) * 3).save(dark / "one_pixel.png")
    Image.new("RGB", (8000, 6000), (DARK,) * 3).save(dark / "large.jpg")
    Image.new("RGB", (10, 2), (DARK,) * 3).save(dark / "small.png")
    Image.new("L", (16, 16), BRIGHT).save(bright / "grey.png")
    Image.fromarray(np.full((16, 16), DARK * 257, np.uint16)).save(dark / "16bits.png")
    Image.fromarray(np.full((16, 16), BRIGHT * 257, np.uint16)).save(bright / "16bits.tif")
    Image.new("RGBA", (16, 16), (DARK,) * 3 + (0,)).save(dark / "alpha.png")  # on white: bright
    Image.new("RGBA", (16, 16), (BRIGHT,) * 3 + (0,)).save(bright / "alpha.png")  # on black: dark
    Image.new("CMYK", (16, 16), (0, 0, 0, 255 - DARK)).save(dark / "cmyk.jpg")
    Image.new("CMYK", (16, 16), (0, 0, 0, 255 - BRIGHT)).save(bright / "cmyk.tif")
    # A bright column on black, which lies on its side and fills the crop when it is turned.
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 6:10] = BRIGHT
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(bright / "turned.png", exif=exif)


@pytest.mark.slow
def test_odd_images_are_seen_as_they_look(own: Own, cli: Cli) -> None:
    draw_odd(own)
    data = {
        "root": "pictures",
        "preprocessing": {"crop": BAND, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    result = cli("run", own.yaml(data=data), "--out", "out")
    assert result.exit_code == 0, result.stderr
    results = own.results()
    assert results["evaluation_images"] == 8 + 11
    for entry in (results["float"], results["variants"][0]):
        assert entry["metrics"]["top1"] == 1
    for expected in (
        "smaller than the crop, filled up with black: 2 of the 19 evaluation images",
        "turned upright as their EXIF orientation says: 1 of the 19 evaluation images",
        "transparent in places, which is ignored: 2 of the 19 evaluation images",
    ):
        assert expected in results["notes"]


def test_a_class_folder_that_the_model_does_not_know(own: Own, refusal: Refusal) -> None:
    (own.path / "names.txt").write_text("dark\nbright\n")
    data = {"root": "pictures", "classes": "names.txt"}
    own.draw("pictures/val/grey/0.png", 90, 150)
    message = refusal("run", own.yaml(data=data))
    assert "'grey'" in message
    assert "names.txt" in message
