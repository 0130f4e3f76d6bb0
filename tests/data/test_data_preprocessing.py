from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from subbyte.data.preprocessing import Preprocessing
from subbyte.data.transform import transform


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def both(size: tuple[int, int], interpolation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture through our preprocessing, and through torchvision's preset."""
    image = picture(*size)
    ours = Preprocessing(resize=48, crop=40, interpolation=interpolation)  # type: ignore[arg-type]
    theirs = ImageClassification(
        crop_size=40, resize_size=48, interpolation=InterpolationMode(interpolation)
    )
    return transform(ours)(image), theirs(image)


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (40, 40), (20, 33)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_agrees_with_the_preset_of_torchvision(size: tuple[int, int], interpolation: str) -> None:
    ours, theirs = both(size, interpolation)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_is_the_preset_of_torchvision_to_the_last_bit() -> None:
    ours, theirs = both((90, 61), "bilinear")
    assert torch.equal(ours, theirs)


def test_nothing_but_normalization_by_hand() -> None:
    image = Image.new("RGB", (2, 1), (0, 51, 255))
    tensor = transform(Preprocessing(mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0)))(image)
    assert tensor.shape == (3, 1, 2)
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([-1.0, 0.0, 0.5]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_gets_the_channels_asked_for(mode: str) -> None:
    image = picture(6, 5).convert(mode)
    assert transform(Preprocessing())(image).shape == (3, 5, 6)
    assert transform(Preprocessing(mean=(0.5,), std=(0.5,)))(image).shape == (1, 5, 6)


@pytest.mark.parametrize(
    "keys",
    [
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5), "std": (0.5, 0.5)},
        {"std": (0.5, 0.5, 0.0)},
        {"colour": "red"},
        {"resize": 0},
        {"resize": (0, 8)},
        {"crop": -3},
    ],
)
def test_what_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing.model_validate(keys)
