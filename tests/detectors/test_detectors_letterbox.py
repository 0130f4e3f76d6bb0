"""From images of any sizes to a file's, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from small_detectors import detector, pictures
from subbyte.detectors import letterbox_for
from subbyte.detectors.letterbox import Letterbox, letterbox_of
from subbyte.models import build


def test_images_of_one_size_stay_as_they_are() -> None:
    letterbox = letterbox_for(detector("retinanet"), [(48, 64)] * 3)
    images = pictures(2, (48, 64))
    assert torch.equal(letterbox.images(images), torch.stack(images))
    boxes = np.array([[1, 2, 30, 40]], np.float32)
    assert letterbox.back({"boxes": boxes}, (48, 64))["boxes"] is boxes


@pytest.mark.parametrize("name", ["ssd", "digit_scenes"])
def test_what_an_ssd_resizes_by_itself_is_stretched_to_its_own_size(name: str) -> None:
    model = detector("ssd") if name == "ssd" else build(name)
    letterbox = letterbox_for(model, [(40, 60), (50, 30)])
    side = 64 if name == "ssd" else 128
    assert (letterbox.size, letterbox.fit) == ((side, side), "stretch")
    images = pictures(1, (40, 60)) + pictures(1, (50, 30), seed=2)
    with torch.no_grad():
        alone = model(images)
        found = model(list(letterbox.images(images)))
    for one, other, image in zip(alone, found, images, strict=True):
        boxes = {"boxes": other["boxes"].numpy()}
        back = letterbox.back(boxes, tuple(image.shape[-2:]))["boxes"]
        assert len(back) > 0
        np.testing.assert_allclose(back, one["boxes"].numpy(), atol=1e-3)


def test_others_keep_the_ratio_of_the_sides_and_are_filled_up() -> None:
    letterbox = letterbox_for(detector("fcos"), [(40, 60), (50, 30)])
    assert (letterbox.size, letterbox.fit) == ((50, 60), "pad")
    image = pictures(1, (25, 15))[0]
    (placed,) = letterbox.images([image])
    pixels = Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())
    larger = pil_to_tensor(pixels.resize((30, 50), Image.Resampling.BILINEAR)).float() / 255
    assert float((placed[:, :, :30] - larger).abs().max()) < 0.03
    mean = torch.tensor(letterbox.fill).view(3, 1, 1)
    torch.testing.assert_close(placed[:, :, 30:], mean.expand(3, 50, 30))
    rows = [[0, 0, 30, 50], [31, 5, 60, 20], [10, 20, 20, 40], [25, 40, 60, 60]]
    found = {"boxes": np.array(rows, np.float32), "scores": np.arange(4.0)}
    back = letterbox.back(found, (25, 15))
    expected = [[0, 0, 15, 25], [5, 10, 10, 20], [12.5, 20, 15, 25]]  # within the image
    np.testing.assert_allclose(back["boxes"], expected)
    assert back["scores"].tolist() == [0, 2, 3]


def test_a_letterbox_is_no_larger_than_the_model_lets_images_be() -> None:
    assert letterbox_for(detector("fcos"), [(40, 192), (96, 50)]).size == (48, 96)


def test_what_a_file_says_of_it_makes_the_same() -> None:
    letterbox = Letterbox((48, 64), "pad", True, (0.5, 0.25, 0.125))
    assert letterbox_of(letterbox.metadata()) == letterbox
