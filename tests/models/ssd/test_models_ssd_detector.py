from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import _utils, ssd
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import to_dtype, to_image

from subbyte.errors import SubbyteError
from subbyte.models import build
from subbyte.models.ssd import SSD, Settings
from subbyte.models.ssd.boxes import to_corners
from subbyte.models.ssd.loss import match
from subbyte.models.ssd.postprocess import detections

SETTINGS = Settings((0, 0, 0), (1, 1, 1), 0.2, 0.45, candidates=30, detections=25)


def _model() -> SSD:
    model = build("sq_ssd_lite", num_classes=4)
    assert isinstance(model, SSD)
    return model


def _detected_by_hand(
    regression: np.ndarray, logits: np.ndarray, defaults: np.ndarray, size: tuple[int, int]
) -> list[tuple[float, int, list[float]]]:
    """The same in float64, box by box."""
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    centres = defaults[:, :2] + 0.1 * regression[:, :2] * defaults[:, 2:]
    sides = defaults[:, 2:] * np.exp(0.2 * regression[:, 2:])
    boxes = np.hstack([centres - sides / 2, centres + sides / 2])
    found = []
    for label in range(1, logits.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")[: SETTINGS.candidates]
        kept: list[int] = []
        for index in (i for i in order if scores[i, label] > SETTINGS.score_threshold):
            if all(_iou(boxes[index], boxes[other]) <= SETTINGS.nms_iou for other in kept):
                kept.append(index)
        for index in kept:
            box = boxes[index].clip(0, 1) * [size[1], size[0], size[1], size[0]]
            found.append((float(scores[index, label]), label, box.tolist()))
    return sorted(found, reverse=True)[: SETTINGS.detections]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = float(np.prod(sides.clip(0)))
    return inner / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


def test_detections_are_those_found_box_by_box() -> None:
    generator = torch.Generator().manual_seed(3)
    defaults = torch.rand(120, 4, generator=generator) * 0.4 + 0.2
    regression = torch.randn(120, 4, generator=generator)
    logits = 2 * torch.randn(120, 4, generator=generator)
    found = detections(regression, logits, defaults, (90, 160), SETTINGS)
    arrays = (x.double().numpy() for x in (regression, logits, defaults))
    expected = _detected_by_hand(*arrays, (90, 160))
    assert len(expected) == SETTINGS.detections
    assert found["labels"].tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found["scores"], [score for score, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found["boxes"], [box for *_, box in expected], atol=1e-3)


def test_nothing_above_the_threshold_is_no_detection() -> None:
    logits = torch.tensor([[9.0, 0, 0]]).repeat(50, 1)
    found = detections(torch.zeros(50, 4), logits, torch.full((50, 4), 0.5), (8, 8), SETTINGS)
    assert [found[key].shape for key in ("boxes", "scores", "labels")] == [(0, 4), (0,), (0,)]
    assert found["labels"].dtype == torch.int64


def test_images_of_any_size_give_boxes_in_their_own_pixels() -> None:
    model = _model()
    images = [torch.rand(3, 60, 500), torch.rand(3, 300, 300)]
    with torch.no_grad():
        results = model(images)
        raw = model.raw(model.preprocess(images))
    for index, (image, result) in enumerate(zip(images, results, strict=True)):
        expected = detections(
            raw["bbox_regression"][index],
            raw["cls_logits"][index],
            model.default_boxes(),
            (image.shape[1], image.shape[2]),
            model.settings,
        )
        assert torch.equal(result["boxes"], expected["boxes"])
        assert (result["boxes"] <= torch.tensor([1, 1, 1, 1]) * 500).all()
        assert (result["boxes"][:, 1::2] <= image.shape[1]).all()
        assert result["labels"].min() >= 1
        assert result["scores"].diff().max() <= 0


def test_vggs_read_rgb_less_the_means_that_caffe_has_for_bgr() -> None:
    model = build("ssd300_vgg16_amdegroot")
    assert isinstance(model, SSD)
    pixels = torch.zeros(3, 300, 300)
    pixels[0] = 1.0  # red
    batch = model.preprocess([pixels])
    torch.testing.assert_close(batch[0, :, 5, 7], torch.tensor([255.0 - 123, -117, -104]))
    mobile = _model().preprocess([pixels])
    torch.testing.assert_close(
        mobile[0, :, 0, 0], torch.tensor([128 / 128, -127 / 128, -127 / 128])
    )


def test_nvidias_images_are_resized_as_pil_does() -> None:
    model = build("nvidia_ssd300_resnet18")
    assert isinstance(model, SSD)
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    resized = np.asarray(image.resize((300, 300), Image.Resampling.BILINEAR)) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    batch = model.preprocess([to_dtype(to_image(image), torch.float32, scale=True)])
    # PIL rounds to a whole number of 255ths after each direction.
    np.testing.assert_allclose(batch[0].permute(1, 2, 0), expected, atol=1.6 / 255 / 0.22)


def test_matching_agrees_with_torchvisions() -> None:
    defaults = to_corners(_model().default_boxes())
    generator = torch.Generator().manual_seed(5)
    start = torch.rand(12, 2, generator=generator) * 0.6
    objects = torch.cat([start, start + torch.rand(12, 2, generator=generator) * 0.4 + 0.01], 1)
    matched = match(objects, defaults)
    theirs = _utils.SSDMatcher(0.5)(box_iou(objects, defaults))
    assert torch.equal(matched.clamp(min=-1), theirs.clamp(min=-1))
    assert set(matched.tolist()) - {-1} == set(range(12))
    assert (match(objects[:0], defaults) == -1).all()


def test_of_two_objects_with_one_best_box_the_last_has_it() -> None:
    defaults = torch.tensor([[0.0, 0, 0.1, 0.1], [0.5, 0.5, 1, 1]])
    objects = torch.tensor([[0.0, 0, 0.3, 0.3], [0.0, 0, 0.2, 0.3]])
    assert match(objects, defaults).tolist() == [1, -1]


def test_losses_are_torchvisions_and_have_gradients() -> None:
    model = _model().train()
    generator = torch.Generator().manual_seed(2)
    images = [torch.rand(3, 100, 200, generator=generator) for _ in range(2)]
    targets = [
        {
            "boxes": torch.tensor([[10.0, 10, 80, 70], [100, 20, 190, 90], [3, 3, 9, 9]]),
            "labels": torch.tensor([1, 3, 2]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = cast(dict[str, torch.Tensor], model(images, targets))
    assert set(losses) == {"bbox_regression", "classification"}
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    raw = model.raw(model.preprocess(images))
    corners = to_corners(model.default_boxes())
    scaled = [
        {"boxes": t["boxes"] / torch.tensor([200.0, 100, 200, 100]), "labels": t["labels"]}
        for t in targets
    ]
    matcher = _utils.SSDMatcher(0.5)
    matched = [
        matcher(box_iou(t["boxes"], corners)) if len(t["boxes"]) else torch.full((2568,), -1)
        for t in scaled
    ]
    # Their method reads two attributes of its detector.
    stand_in = SimpleNamespace(box_coder=_utils.BoxCoder((10, 10, 5, 5)), neg_to_pos_ratio=3)
    compute = cast(Any, ssd.SSD.compute_loss)
    expected = compute(stand_in, scaled, raw, [corners, corners], matched)
    for key, loss in losses.items():
        torch.testing.assert_close(loss, expected[key], rtol=1e-4, atol=1e-5)


def test_a_batch_without_objects_has_no_loss() -> None:
    model = _model().train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = cast(dict[str, torch.Tensor], model([torch.rand(3, 30, 30)], [empty]))
    assert [loss.item() for loss in losses.values()] == [0, 0]


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[5.0, 5, 5, 9]], [1], r"the box \[5.0, 5.0, 5.0, 9.0\] has no area"),
        ([[5.0, 5, float("nan"), 9]], [1], "has no area"),
        ([[5.0, 5, 8, 9]], [4], "label 4 for 1 boxes: each box needs a label from 1 to 3"),
        ([[5.0, 5, 8, 9]], [0], "label 0"),
        ([[5.0, 5, 8, 9]], [1, 2], "2 labels for 1 boxes"),
    ],
)
def test_bad_targets_are_reported(
    boxes: list[list[float]], labels: list[int], message: str
) -> None:
    target = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
    with pytest.raises(SubbyteError, match=message):
        _model().train()([torch.rand(3, 30, 30)], [target])


def test_bad_images_are_reported() -> None:
    model = _model()
    with pytest.raises(SubbyteError, match="no image was given"):
        model([])
    with pytest.raises(SubbyteError, match=r"torch.uint8 of shape \[3, 4, 4\]"):
        model([torch.zeros(3, 4, 4, dtype=torch.uint8)])
    with pytest.raises(SubbyteError, match=r"shape \[1, 4, 4\]"):
        model([torch.zeros(1, 4, 4)])
    with pytest.raises(SubbyteError, match=r"this model takes \[N, 3, 300, 300\]"):
        model.raw(torch.zeros(1, 3, 320, 320))
    with pytest.raises(SubbyteError, match="no targets came with 1 images"):
        model.train()([torch.rand(3, 9, 9)])
