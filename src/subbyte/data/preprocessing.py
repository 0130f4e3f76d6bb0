"""How an image is prepared for a model, and the sizes that follow from it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

Size = int | tuple[int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(BaseModel):
    """Resize, centre crop, scale to [0, 1], normalize; in this order, as torchvision's presets do.

    Attributes:
        resize: Length of the short side, or (height, width), in pixels; `None`: as it is.
        crop: Side of a centred square, or (height, width), in pixels; `None`: as it is.
        mean: One value a channel: with one, images are read in grey, with three in RGB.
        std: Likewise.
        interpolation: Of the resizing.
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
    return as_pair(preprocessing.crop)


def is_padded(size: tuple[int, int], preprocessing: Preprocessing) -> bool:
    """Whether an image of `size` (height, width) is smaller than the crop, which fills with 0."""
    if preprocessing.crop is None:
        return False
    have, want = resized_size(size, preprocessing), as_pair(preprocessing.crop)
    return have[0] < want[0] or have[1] < want[1]


def as_pair(size: Size) -> tuple[int, int]:
    """Height and width of `size`, which may be the side of a square."""
    return (size, size) if isinstance(size, int) else size
