"""From a PIL image to a model's input tensor."""

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
    """The function from a PIL image to a float32 tensor of shape (channels, height, width)."""
    mode = "L" if preprocessing.channels == 1 else "RGB"
    interpolation = InterpolationMode(preprocessing.interpolation)

    def apply(image: Image.Image) -> torch.Tensor:
        image = image if image.mode == mode else image.convert(mode)
        if preprocessing.resize is not None:
            size = resized_size((image.height, image.width), preprocessing)
            if preprocessing.crop is not None and size[0] * size[1] > LARGE:
                image = _middle_resized(image, size, preprocessing)
            else:
                image = F.resize(image, list(size), interpolation)
        if preprocessing.crop is not None:
            image = F.center_crop(image, list(as_pair(preprocessing.crop)))
        tensor = F.pil_to_tensor(image).to(torch.float32) / 255
        normal: torch.Tensor = F.normalize(
            tensor, list(preprocessing.mean), list(preprocessing.std)
        )
        return normal

    return apply


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
