"""How an image is prepared for a model, and the sizes that follow from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

Size = int | tuple[int, int]

# Keys of `Preprocessing` that only detectors have.
OF_DETECTORS = ("letterbox", "fill", "place", "colours", "range", "antialias")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(BaseModel):
    """Resize, centre crop, scale to [0, 1], normalize; in this order, as torchvision's presets do.

    For a detector's raw network (`subbyte.detection`): letterbox or resize, colours, range,
    normalize.

    Attributes:
        resize: Length of the short side, or (height, width), in pixels; `None`: as it is.
        crop: Side of a centred square, or (height, width), in pixels; `None`: as it is.
        mean: One value a channel: with one, images are read in grey, with three in RGB. Of a
            detector in the units of `range` and the order of `colours`.
        std: Likewise.
        interpolation: Of the resizing.
        letterbox: Of detectors: a square's side, or (height, width), in pixels, into which an image
            is resized as far as it fits, in its own ratio of sides; `None`: as it is.
        fill: Of detectors: what the rest of the letterbox is filled with, a pixel's value from 0 to
            255, or one for each channel in the order of `colours`.
        place: Of detectors: where the image lies in the letterbox, in its centre or in its upper
            left corner.
        colours: Of detectors: the order of the network's input channels.
        range: Of detectors: what white is in the network's input before `mean` and `std`.
        antialias: Of detectors: images are resized as PIL does, else by plain bilinear
            interpolation, as OpenCV does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resize: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    letterbox: Size | None = None
    fill: float | tuple[float, float, float] = 114.0
    place: Literal["centre", "corner"] = "centre"
    colours: Literal["rgb", "bgr"] = "rgb"
    range: Literal[1, 255] = 1
    antialias: bool = False

    @model_validator(mode="after")
    def _channels_agree(self) -> Preprocessing:
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError("mean and std must both have 1 value (grey) or both 3 (RGB)")
        if any(s <= 0 for s in self.std):
            raise ValueError("every std must be above 0")
        for key in ("letterbox", "resize", "crop"):
            size: Size | None = getattr(self, key)
            if size is not None and min(as_pair(size)) < 1:
                raise ValueError(f"a {key} has sides of 1 pixel and more")
        if not all(0 <= value <= 255 for value in self.fills):
            raise ValueError("fill is the value of a pixel: give 0 to 255")
        if self.letterbox is not None and (self.resize is not None or self.crop is not None):
            raise ValueError(
                "letterbox and resize or crop exclude each other: a letterbox resizes images itself"
            )
        for key in ("fill", "place"):
            if self.letterbox is None and key in self.model_fields_set:
                raise ValueError(f"{key} is that of a letterbox: give letterbox: SIDE as well")
        return self

    def as_classifiers(self) -> dict[str, Any]:
        """As plain data, without what only detectors have."""
        return self.model_dump(mode="json", exclude=set(OF_DETECTORS))

    @property
    def channels(self) -> int:
        """Number of channels of the tensor: 1 or 3."""
        return len(self.mean)

    @property
    def fills(self) -> tuple[float, float, float]:
        """`fill` of each channel, in the order of `colours`."""
        return self.fill if isinstance(self.fill, tuple) else (self.fill,) * 3


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
