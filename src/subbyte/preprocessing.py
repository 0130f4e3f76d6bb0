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
        image = image.convert(mode)
        if preprocessing.resize is not None:
            size = preprocessing.resize
            image = F.resize(image, [size] if isinstance(size, int) else list(size), interpolation)
        if preprocessing.crop is not None:
            crop = preprocessing.crop
            image = F.center_crop(image, [crop, crop] if isinstance(crop, int) else list(crop))
        tensor = F.pil_to_tensor(image).to(torch.float32) / 255
        normal: torch.Tensor = F.normalize(
            tensor, list(preprocessing.mean), list(preprocessing.std)
        )
        return normal

    return apply
