from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from subbyte.models.ssd.boxes import decode, default_boxes, encode, to_centres, to_corners
from subbyte.models.ssd.members import MEMBERS


def _boxes(name: str, classes: int | None = None) -> torch.Tensor:
    member = MEMBERS[name]
    levels = member.levels(classes or member.classes)
    return default_boxes(levels, member.settings.size, member.order)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("nvidia_ssd300_resnet50", 8732),
        ("ssd300_vgg16_amdegroot", 8732),
        ("vgg16_ssd", 8732),
        ("mb1_ssd", 3000),
        ("mb2_ssd_lite", 3000),
        ("sq_ssd_lite", (17 * 17 + 100 + 25 + 9 + 4 + 1) * 6),
    ],
)
def test_there_are_as_many_as_the_projects_have_within_the_image(name: str, count: int) -> None:
    boxes = _boxes(name)
    assert boxes.shape == (count, 4)
    assert boxes.dtype == torch.float32
    assert boxes.min() > 0
    assert boxes.max() <= 1


def test_nvidias_are_sorted_by_shape_first() -> None:
    boxes = _boxes("nvidia_ssd300_resnet18")
    # 38 × 38 cells of 8 pixels; squares of 21 and √(21·45) pixels, then 2:1 and 1:2.
    torch.testing.assert_close(boxes[0], torch.tensor([4 / 300, 4 / 300, 0.07, 0.07]))
    torch.testing.assert_close(boxes[1], torch.tensor([12 / 300, 4 / 300, 0.07, 0.07]))
    torch.testing.assert_close(boxes[38], torch.tensor([4 / 300, 12 / 300, 0.07, 0.07]))
    side = math.sqrt(21 * 45) / 300
    torch.testing.assert_close(boxes[38 * 38], torch.tensor([4 / 300, 4 / 300, side, side]))
    wide, high = 21 * math.sqrt(2) / 300, 21 / math.sqrt(2) / 300
    torch.testing.assert_close(boxes[2 * 38 * 38, 2:], torch.tensor([wide, high]))
    torch.testing.assert_close(boxes[3 * 38 * 38, 2:], torch.tensor([high, wide]))
    # The last map's one cell; its largest box, √(261·315) pixels, and 1:2 of 261 is clipped to 1.
    torch.testing.assert_close(boxes[-3], torch.tensor([0.5, 0.5, 0.9557719, 0.9557719]))
    torch.testing.assert_close(boxes[-1], torch.tensor([0.5, 0.5, 261 / 300 / math.sqrt(2), 1.0]))


@pytest.mark.parametrize("name", ["ssd300_vgg16_amdegroot", "vgg16_ssd"])
def test_those_for_voc_are_sorted_by_place_first(name: str) -> None:
    boxes = _boxes(name)
    wide, high = 30 * math.sqrt(2) / 300, 30 / math.sqrt(2) / 300
    side = math.sqrt(30 * 60) / 300
    expected = [(0.1, 0.1), (side, side), (wide, high), (high, wide)]
    torch.testing.assert_close(boxes[:4, 2:], torch.tensor(expected))
    torch.testing.assert_close(boxes[:4, :2], torch.full((4, 2), 4 / 300))
    torch.testing.assert_close(boxes[4, :2], torch.tensor([12 / 300, 4 / 300]))
    # The second map: 19 × 19 cells of 16 pixels, six boxes each, 60 pixels and 3:1 of them.
    second = boxes[38 * 38 * 4 :]
    torch.testing.assert_close(second[0], torch.tensor([8 / 300, 8 / 300, 0.2, 0.2]))
    torch.testing.assert_close(
        second[4, 2:], torch.tensor([0.2 * math.sqrt(3), 0.2 / math.sqrt(3)])
    )
    torch.testing.assert_close(second[6, :2], torch.tensor([24 / 300, 8 / 300]))


def test_amdegroots_are_cocos_where_there_are_not_vocs_classes() -> None:
    torch.testing.assert_close(_boxes("ssd300_vgg16_amdegroot", 81)[0, 2:], torch.full((2,), 0.07))
    torch.testing.assert_close(_boxes("vgg16_ssd", 81)[0, 2:], torch.full((2,), 0.1))


def test_mobilenets_have_six_at_each_place() -> None:
    boxes = _boxes("mb1_ssd")
    sides = [60.0, math.sqrt(60 * 105)]
    torch.testing.assert_close(boxes[:2, 2:], torch.tensor([[s / 300] * 2 for s in sides]))
    torch.testing.assert_close(boxes[5, 2:], torch.tensor([0.2 / math.sqrt(3), 0.2 * math.sqrt(3)]))
    torch.testing.assert_close(boxes[6, :2], torch.tensor([24 / 300, 8 / 300]))
    # The 2 × 2 map: cells of 150 pixels, boxes of 240.
    torch.testing.assert_close(boxes[-30], torch.tensor([0.25, 0.25, 0.8, 0.8]))
    torch.testing.assert_close(boxes[-1, :2], torch.tensor([0.5, 0.5]))


def test_decoding_undoes_encoding_and_agrees_with_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    defaults = _boxes("mb1_ssd")[::10]
    corners = to_corners(torch.rand(len(defaults), 4, generator=generator) * 0.5 + 0.1)
    code = encode(corners, defaults, (0.1, 0.2))
    torch.testing.assert_close(decode(code, defaults, (0.1, 0.2)), corners, rtol=0, atol=2e-6)
    d, b = (x.double().numpy() for x in (defaults, corners))
    sides, centres = b[:, 2:] - b[:, :2], (b[:, 2:] + b[:, :2]) / 2
    expected = np.hstack([(centres - d[:, :2]) / d[:, 2:] / 0.1, np.log(sides / d[:, 2:]) / 0.2])
    np.testing.assert_allclose(code.numpy(), expected, rtol=1e-4, atol=1e-4)
    # torchvision's coder has the inverse of the variances as weights.
    theirs = BoxCoder((10, 10, 5, 5)).decode_single(code, to_corners(defaults))
    torch.testing.assert_close(decode(code, defaults, (0.1, 0.2)), theirs, rtol=0, atol=1e-5)


def test_centre_and_corner_form() -> None:
    corners = torch.tensor([[10.0, 20.0, 40.0, 80.0]])
    torch.testing.assert_close(to_centres(corners), torch.tensor([[25.0, 50.0, 30.0, 60.0]]))
    torch.testing.assert_close(to_corners(to_centres(corners)), corners)
