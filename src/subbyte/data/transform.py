"""From a PIL image to pixels, and from these to a model's input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from subbyte.data.preprocessing import Preprocessing, as_pair, resized_size

# Pixels of a resized image from which on only its middle is computed.
LARGE = 2**24


def transform(preprocessing: Preprocessing) -> Callable[[Image.Image], torch.Tensor]:
    """The function from a PIL image to a model's input, float32 [C, H, W]."""
    return lambda image: normalized(pixels_of(image, preprocessing), preprocessing)


def pixels_of(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """An image resized and cropped: uint8 [C, H, W]."""
    mode = "L" if preprocessing.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if preprocessing.resize is not None:
        size = resized_size((image.height, image.width), preprocessing)
        if preprocessing.crop is not None and size[0] * size[1] > LARGE:
            image = _middle_resized(image, size, preprocessing)
        else:
            image = F.resize(image, list(size), InterpolationMode(preprocessing.interpolation))
    if preprocessing.crop is not None:
        image = F.center_crop(image, list(as_pair(preprocessing.crop)))
    pixels: torch.Tensor = F.pil_to_tensor(image)
    return pixels


def normalized(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Pixels, uint8 [..., C, H, W], as a model takes them: float32, in [0, 1], then normalized."""
    scaled = pixels.to(torch.float32) / 255
    normal: torch.Tensor = F.normalize(scaled, list(preprocessing.mean), list(preprocessing.std))
    return normal


def _middle_resized(
    image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing
) -> Image.Image:
    """Of the image in `size`, only what a centred crop will keep: the rest would be too large."""
    assert preprocessing.crop is not None
    kept = [min(have, want) for have, want in zip(size, as_pair(preprocessing.crop), strict=True)]
    starts = [round((have - keep) / 2) for have, keep in zip(size, kept, strict=True)]
    top, bottom = (edge * image.height / size[0] for edge in (starts[0], starts[0] + kept[0]))
    left, right = (edge * image.width / size[1] for edge in (starts[1], starts[1] + kept[1]))
    method = Image.Resampling[preprocessing.interpolation.upper()]
    return image.resize((kept[1], kept[0]), method, box=(left, top, right, bottom))
