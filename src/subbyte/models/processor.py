"""What an image processor of Hugging Face's transformers does, in the words of a preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from subbyte import detection
from subbyte.data.preprocessing import Preprocessing
from subbyte.data.transform import transform

METHODS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
WARPED = 384  # from this side on ConvNeXt's processor stretches, and crops nothing
RATIO = 4 / 3  # of the sides of most photographs
SAMPLE = (240, 320)  # height and width
NEAR = 0.1  # how far two ways to resize are apart at most, after normalization


def of_classifier(processor: Any) -> Preprocessing:
    """Resize, crop and normalization of a classifier's processor."""
    fields: dict[str, Any] = _normal(processor)
    resample = getattr(processor, "resample", None)
    method = "bilinear" if resample is None else METHODS.get(int(resample), "bilinear")
    crop = _size(processor, "crop_size") if getattr(processor, "do_center_crop", False) else None
    if getattr(processor, "do_resize", True):
        fields |= {"interpolation": method, **_resized(processor)}
    if crop is not None and "crop" not in fields:
        fields["crop"] = crop
    return Preprocessing(**fields)


def of_detector(processor: Any) -> detection.Preprocessing:
    """Resize or letterbox and normalization of a detector's processor.

    A processor that keeps the ratio of the sides gives each image a size of its own. The letterbox
    is then the square in which an image of 4 : 3 has the size that the processor gives it.
    """
    fields: dict[str, Any] = _normal(processor)
    if getattr(processor, "do_flip_channel_order", False):
        fields["colours"] = "bgr"
    size = _sides(processor, "size")
    if getattr(processor, "do_resize", True) and size:
        if {"height", "width"} <= size.keys():
            fields |= {"resize": (size["height"], size["width"])}
        else:
            fields |= {"letterbox": _square(size), "place": "corner"}
            fields["fill"] = tuple(255 * mean for mean in fields["mean"])
        fields["antialias"] = True
    return detection.Preprocessing(**fields)


def strays(processor: Any, preprocessing: Preprocessing) -> str | None:
    """A sentence, if a processor does something else to a photograph than a preprocessing does.

    Args:
        processor: The processor.
        preprocessing: What was read of it; of a letterbox only the image's own part is compared.
    """
    image = _photograph()
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
    if not isinstance(preprocessing, detection.Preprocessing):
        ours = transform(preprocessing)(image)
        if getattr(processor, "do_flip_channel_order", False):
            ours = ours.flip(0)
    else:
        ours = _detectors(image, preprocessing, (int(theirs.shape[1]), int(theirs.shape[2])))
    if ours.shape == theirs.shape and float((ours - theirs).abs().mean()) <= NEAR:
        return None
    return (
        f"its {type(processor).__name__} prepares images as no preprocessing here does, and "
        f"{_described(preprocessing)} takes its place: if that is wrong, give data.preprocessing"
    )


def _detectors(
    image: Image.Image, preprocessing: detection.Preprocessing, size: tuple[int, int]
) -> torch.Tensor:
    """The image itself, of the size that the processor gives it, normalized."""
    sized = preprocessing.resize if isinstance(preprocessing.resize, tuple) else size
    plain = Preprocessing(resize=sized, mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = transform(plain)(image) * preprocessing.range
    if preprocessing.colours == "bgr":
        pixels = pixels.flip(0)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def _resized(processor: Any) -> dict[str, Any]:
    size = _sides(processor, "size")
    short = size.get("shortest_edge")
    share = getattr(processor, "crop_pct", None)
    if short is not None and share and type(processor).__name__.startswith("ConvNext"):
        if short >= WARPED:
            return {"resize": (short, short)}
        return {"resize": int(short / share), "crop": short}
    if short is not None:
        return {"resize": int(short / share) if share else short}
    found = _size(processor, "size")
    return {} if found is None else {"resize": found}


def _normal(processor: Any) -> dict[str, Any]:
    """Mean and std of values in [0, 1], whatever the processor's own values are in."""
    factor = 255 * float(processor.rescale_factor) if _does(processor, "do_rescale") else 255.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if _does(processor, "do_normalize"):
        mean, std = (_three(getattr(processor, key)) for key in ("image_mean", "image_std"))
    factor = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-3) else factor
    return {"mean": tuple(x / factor for x in mean), "std": tuple(x / factor for x in std)}


def _does(processor: Any, key: str) -> bool:
    return bool(getattr(processor, key, False))


def _three(value: Any) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))


def _sides(processor: Any, key: str) -> dict[str, int]:
    """A processor's size as a mapping of what is set in it."""
    size = getattr(processor, key, None)
    if isinstance(size, int):
        return {"height": size, "width": size}
    items = size.items() if isinstance(size, Mapping) else vars(size).items() if size else ()
    return {str(name): int(value) for name, value in items if value is not None}


def _size(processor: Any, key: str) -> int | tuple[int, int] | None:
    """A square's side or (height, width)."""
    size = _sides(processor, key)
    if not {"height", "width"} <= size.keys():
        return size.get("shortest_edge")
    height, width = size["height"], size["width"]
    return height if key == "crop_size" and height == width else (height, width)


def _square(size: Mapping[str, int]) -> int | tuple[int, int]:
    if {"max_height", "max_width"} <= size.keys():
        return (size["max_height"], size["max_width"])
    if "shortest_edge" not in size:
        return size["longest_edge"]
    long = int(size["shortest_edge"] * RATIO)
    return min(long, size.get("longest_edge", long))


def _described(preprocessing: Preprocessing) -> str:
    keys = preprocessing.model_dump(mode="json", exclude_unset=True)
    return ", ".join(f"{key}: {value}" for key, value in keys.items())


def _photograph() -> Image.Image:
    """A smooth image, of which any way to resize makes nearly the same."""
    height, width = SAMPLE
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / 40 + i) * np.cos(y / (30 + 5 * i)) for i in range(3)]
    pixels = np.stack([127 + 100 * wave + 20 * (i - 1) for i, wave in enumerate(waves)], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
