"""Images with the boxes that two models found on them, side by side, as one PNG file."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from subbyte.errors import SubbyteError
from subbyte.tasks.metrics.detection import DetectionOutputs
from subbyte.utils.files import atomic

_SIDE = 320  # pixels that a smaller image is enlarged to, so that its labels can be read
_LARGEST = 640
_MARGIN = 8
_HEAD = 18
_INK = (255, 255, 255)
_PAPER = (24, 24, 24)


def draw_scenes(
    images: Sequence[torch.Tensor],
    left: DetectionOutputs,
    right: DetectionOutputs,
    classes: Sequence[str],
    path: Path,
    *,
    threshold: float = 0.5,
    titles: tuple[str, str] = ("float", "quantized"),
) -> None:
    """Write a PNG file with a row for each image: what two models found on it, side by side.

    Small images are enlarged, large ones reduced.

    Args:
        images: Each [3, H, W] or [1, H, W], in [0, 1], the first ones of those that the detections
            are of.
        left: The detections on the left.
        right: The detections on the right.
        classes: Names, that of label 1 first.
        path: The file.
        threshold: DetectionOutputs of lower scores are not drawn.
        titles: Of the two columns.

    Raises:
        SubbyteError: There are no images, or fewer detections than images.
    """
    known = min(len(left.boxes), len(right.boxes))
    if not images or known < len(images):
        raise SubbyteError(
            f"{len(images)} images are to be drawn and there are detections on {known}: give at "
            "least one image, and the detections on each"
        )
    rows = [
        [_drawn(image, found, i, classes, threshold) for found in (left, right)]
        for i, image in enumerate(images)
    ]
    heights = [max(part.height for part in row) for row in rows]
    width = max(part.width for row in rows for part in row)
    page = Image.new(
        "RGB",
        (2 * width + 3 * _MARGIN, sum(heights) + _MARGIN * (len(rows) + 1) + _HEAD),
        _PAPER,
    )
    pen = ImageDraw.Draw(page)
    lefts = (_MARGIN, width + 2 * _MARGIN)
    for x, title in zip(lefts, titles, strict=True):
        pen.text((x, _MARGIN // 2), f"{title}, scores from {threshold:.2f} on", fill=_INK)
    top = _MARGIN + _HEAD
    for row, height in zip(rows, heights, strict=True):
        for x, part in zip(lefts, row, strict=True):
            page.paste(part, (x, top))
        top += height + _MARGIN
    with atomic(path) as part_file:
        page.save(part_file, format="PNG")


def _drawn(
    image: torch.Tensor, found: DetectionOutputs, i: int, classes: Sequence[str], threshold: float
) -> Image.Image:
    """One image, enlarged or reduced, with the boxes of the scores from `threshold` on."""
    picture = _picture(image)
    scale = _scale(picture.size)
    picture = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
        Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR,
    )
    pen = ImageDraw.Draw(picture)
    good = np.isfinite(found.boxes[i]).all(1) & (found.scores[i] >= threshold)
    for k in np.flatnonzero(good)[np.argsort(found.scores[i][good], kind="stable")].tolist():
        label = int(found.labels[i][k])
        corners = (found.boxes[i][k].astype(np.float64) * scale).tolist()
        _box(pen, picture.size, corners, f"{_name(label, classes)} {found.scores[i][k]:.2f}", label)
    return picture


def _box(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: Sequence[float],
    text: str,
    label: int,
) -> None:
    x0, x1 = (min(max(value, 0), size[0] - 1) for value in (corners[0], corners[2]))
    y0, y1 = (min(max(value, 0), size[1] - 1) for value in (corners[1], corners[3]))
    if x1 < x0 or y1 < y0:
        return
    colour = _colour(label)
    pen.rectangle((x0, y0, x1, y1), outline=colour, width=2)
    _, _, right, bottom = pen.textbbox((0, 0), text)
    top = y0 - bottom - 2 if y0 >= bottom + 2 else y0
    pen.rectangle((x0, top, x0 + right + 3, top + bottom + 2), fill=colour)
    pen.text((x0 + 2, top), text, fill=(0, 0, 0))


def _picture(image: torch.Tensor) -> Image.Image:
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise SubbyteError(
            f"an image to draw has shape {tuple(image.shape)}: give each as (3, height, width)"
        )
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _scale(size: tuple[int, int]) -> float:
    long = max(size)
    if long < _SIDE:
        return float(-(-_SIDE // long))  # whole, so that pixels stay squares
    return min(1.0, _LARGEST / long)


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label - 1] if 1 <= label <= len(classes) else f"label {label}"


def _colour(label: int) -> tuple[int, int, int]:
    """A colour for a label; neighbours are far apart, by the golden section of the hues."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 1)
    return round(red * 255), round(green * 255), round(blue * 255)
