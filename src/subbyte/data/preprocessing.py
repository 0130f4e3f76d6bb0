"""What happens to an image between its file and the model's input tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Size = int | tuple[int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pixels of a resized image from which on only its middle is computed.
LARGE = 2**24


class Preprocessing(BaseModel):
    """Resize, centre crop, scale to [0, 1], normalize; in this order, as torchvision's presets do.

    `resize`: length of the short side, or (height, width); `crop`: side of a centred square, or
    (height, width); both in pixels, `None` leaves the image as it is. `mean` and `std` hold one
    value a channel: with one, images are read in grey, with three in RGB.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resize: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="after")
    def _channels_agree(self) -> Preprocessing:
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError("mean and std must both have 1 value (grey) or both 3 (RGB)")
        if any(s <= 0 for s in self.std):
            raise ValueError("every std must be above 0")
        return self

    @property
    def channels(self) -> int:
        """Number of channels of the tensor: 1 or 3."""
        return len(self.mean)


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
            image = F.center_crop(image, list(_pair(preprocessing.crop)))
        tensor = F.pil_to_tensor(image).to(torch.float32) / 255
        normal: torch.Tensor = F.normalize(
            tensor, list(preprocessing.mean), list(preprocessing.std)
        )
        return normal

    return apply


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width of an image of `size` (height, width) before the crop."""
    resize = preprocessing.resize
    if resize is None or isinstance(resize, tuple):
        return resize or size
    long = int(resize * max(size) / min(size))
    return (resize, long) if size[0] <= size[1] else (long, resize)


def output_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width of the tensor that an image of `size` (height, width) becomes."""
    if preprocessing.crop is None:
        return resized_size(size, preprocessing)
    return _pair(preprocessing.crop)


def is_padded(size: tuple[int, int], preprocessing: Preprocessing) -> bool:
    """Whether an image of `size` (height, width) is smaller than the crop, which fills with 0."""
    if preprocessing.crop is None:
        return False
    have, want = resized_size(size, preprocessing), _pair(preprocessing.crop)
    return have[0] < want[0] or have[1] < want[1]


def _middle_resized(
    image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing
) -> Image.Image:
    """Of the image in `size`, only what a centred crop will keep: the rest would be too large."""
    assert preprocessing.crop is not None
    kept = [min(have, want) for have, want in zip(size, _pair(preprocessing.crop), strict=True)]
    starts = [round((have - keep) / 2) for have, keep in zip(size, kept, strict=True)]
    top, bottom = (edge * image.height / size[0] for edge in (starts[0], starts[0] + kept[0]))
    left, right = (edge * image.width / size[1] for edge in (starts[1], starts[1] + kept[1]))
    method = Image.Resampling[preprocessing.interpolation.upper()]
    return image.resize((kept[1], kept[0]), method, box=(left, top, right, bottom))


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
