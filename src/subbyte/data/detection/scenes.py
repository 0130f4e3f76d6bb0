"""Scenes of handwritten digits: the bundled data for detectors, made from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from subbyte.data.detection.dataset import DetectionDataset, of_arrays
from subbyte.data.detection.listing import Objects
from subbyte.data.digits import CLASSES, digits_split

Split = Literal["train", "evaluation"]

SIZE = 128  # pixels, both sides
DIGITS = (2, 7)  # a scene
HEIGHTS = (16, 48)  # of a digit, in pixels
# How many scenes a split has where nobody asks for more: `scene` makes any number.
COUNTS: dict[Split, int] = {"train": 4000, "evaluation": 500}
SEED = 20180605

_VISIBLE = 0.85  # of a digit's pixels stay in sight, whatever lies over it
_TRIES = 12
_INK = 128  # from this value on, a pixel belongs to a digit


@dataclass(frozen=True)
class _Drawn:
    """A digit on its place: label, upper left corner, and how opaque each pixel is (0 to 255)."""

    label: int
    top: int
    left: int
    alpha: np.ndarray

    @property
    def place(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def scenes(split: Split, indices: Sequence[int]) -> DetectionDataset:
    """The scenes of a split at `indices` (each from 0 on), which do not depend on one another.

    Their classes are the ten digits, "0" with label 1 first. Scenes of "evaluation" show digits of
    the evaluation half of `digits_split` alone, those of "train" of the training half.
    """
    made = [scene(split, index) for index in indices]
    images = np.stack([image for image, _ in made]) if made else np.empty((0, SIZE, SIZE, 3))
    return of_arrays(images.astype(np.uint8), [found for _, found in made], CLASSES)


def scene(split: Split, index: int, *, varied: bool = False) -> tuple[np.ndarray, Objects]:
    """One scene of a split: the image, uint8 [128, 128, 3], and the objects on it.

    Two to seven digits, 16 to 48 pixels high, scattered over a textured ground with strokes of no
    meaning; later ones may cover earlier ones, of which at least 85 % stays in sight. A box is as
    tight as can be around what is in sight of its digit. The same arguments give the same scene
    everywhere.

    Args:
        split: "train" or "evaluation".
        index: Which one, from 0 on.
        varied: For training: digits are also turned by up to 10 degrees, and written with a thinner
            or thicker pen.
    """
    rng = np.random.Generator(np.random.PCG64([SEED, list(COUNTS).index(split), index]))
    ground = _ground(rng)
    drawn, owner = _scatter(rng, split, varied)
    image = _paint(rng, ground, drawn)
    corners = []
    for number in range(1, len(drawn) + 1):
        rows, columns = np.nonzero(owner == number)
        corners.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    boxes = np.array(corners, np.float32)
    none = np.zeros(len(drawn), bool)
    return image, Objects(
        image_id=index + 1,
        size=(SIZE, SIZE),
        boxes=boxes,
        labels=np.array([digit.label for digit in drawn], np.int64),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
        iscrowd=none,
        difficult=none,
    )


def _integer(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from `low` to `high`, both included; from `random`, whose stream is stable."""
    return low + int(rng.random() * (high - low + 1))


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A textured ground, float32 [128, 128, 3], 0 to 255: cloudy, grainy and with strokes."""
    base = 40 + 175 * rng.random(3)
    cells = _integer(rng, 3, 14)
    rough = base + (rng.random((cells, cells, 3)) - 0.5) * 110 * rng.random()
    small = Image.fromarray(np.clip(rough, 0, 255).astype(np.uint8))
    image = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(_integer(rng, 0, 5)):
        points = [(_integer(rng, 0, SIZE), _integer(rng, 0, SIZE))]
        for _ in range(_integer(rng, 1, 3)):
            x, y = (corner + _integer(rng, -36, 36) for corner in points[-1])
            points.append((x, y))
        pen.line(points, fill=_colour(rng), width=_integer(rng, 1, 5))
    grain = (rng.random((SIZE, SIZE, 3)) - 0.5) * 50 * rng.random()
    return np.asarray(image, np.float32) + grain.astype(np.float32)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (_integer(rng, 0, 255) for _ in range(3))
    return red, green, blue


def _scatter(
    rng: np.random.Generator, split: Split, varied: bool = False
) -> tuple[list[_Drawn], np.ndarray]:
    """Digits on their places, and for each pixel which of them is in sight there (from 1; 0: none).

    A digit is put where it leaves enough of the others in sight; where no such place is found, it
    is left out, but for the first two.
    """
    drawn: list[_Drawn] = []
    owner = np.zeros((SIZE, SIZE), np.int64)
    inks: list[int] = []
    for number in range(_integer(rng, *DIGITS)):
        tries = _TRIES if number >= DIGITS[0] else 1000
        for _ in range(tries):
            digit = _digit(rng, split, varied)
            ink = digit.alpha >= _INK
            covered = np.bincount(owner[digit.place][ink], minlength=len(drawn) + 1)[1:]
            in_sight = np.bincount(owner.ravel(), minlength=len(drawn) + 1)[1:] - covered
            if (in_sight >= _VISIBLE * np.array(inks)).all():
                drawn.append(digit)
                inks.append(int(ink.sum()))
                owner[digit.place][ink] = len(drawn)
                break
    return drawn, owner


def _digit(rng: np.random.Generator, split: Split, varied: bool) -> _Drawn:
    """A digit of a split's half, its size and its place, wholly in the image."""
    digits = _digits(split)
    label = _integer(rng, 0, 9)
    image = digits[label][_integer(rng, 0, len(digits[label]) - 1)]
    height = _integer(rng, *HEIGHTS)
    width = max(8, round(height * image.width / image.height * (0.9 + 0.5 * rng.random())))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    pen = 96
    if varied:
        image = image.rotate(20 * rng.random() - 10, Image.Resampling.BICUBIC, expand=True)
        pen = _integer(rng, 66, 126)
    alpha = np.clip((np.asarray(image, np.int64) - pen) * 4, 0, 255)
    height, width = alpha.shape
    top, left = _integer(rng, 0, SIZE - height), _integer(rng, 0, SIZE - width)
    return _Drawn(label + 1, top, left, alpha)


def _paint(rng: np.random.Generator, ground: np.ndarray, drawn: Sequence[_Drawn]) -> np.ndarray:
    image = ground.copy()
    for digit in drawn:
        under = image[digit.place]
        # Of integers, whose sum is the same in every order: floats' would depend on the machine.
        mean = np.rint(under).astype(np.int64).mean((0, 1))
        colour = np.array(_colour(rng), np.float32)
        while np.abs(colour - mean).max() < 100:  # or nobody could read it
            colour = np.array(_colour(rng), np.float32)
        alpha = digit.alpha[..., None].astype(np.float32) / 255
        image[digit.place] = under + alpha * (colour - under)
    grain = (rng.random(image.shape) - 0.5) * 16
    return np.clip(image + grain, 0, 255).astype(np.uint8)


@cache
def _digits(split: Split) -> list[list[Image.Image]]:
    """The digits of a split's half by class, each cut to the box of its ink."""
    train, train_labels, held_out, held_out_labels = digits_split()
    images, labels = (train, train_labels) if split == "train" else (held_out, held_out_labels)
    return [[_cut(image) for image in images[labels == label]] for label in range(10)]


def _cut(image: np.ndarray) -> Image.Image:
    rows, columns = np.nonzero(image >= 64)
    inner = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return Image.fromarray(inner)
