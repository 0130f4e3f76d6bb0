from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_helpers import detected, random_set
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from subbyte.data.detection import DetectionBatches
from subbyte.data.detection.scenes import scenes
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics import coco
from subbyte.tasks.metrics import detection as task

A, B = (0, 0, 10, 10), (20, 20, 40, 40)


def form(**changed: Any) -> dict[str, Any]:
    whole = {
        "boxes": torch.zeros(3, 4),
        "scores": torch.zeros(3),
        "labels": torch.ones(3, dtype=torch.int64),
    }
    return {key: value for key, value in {**whole, **changed}.items() if value is not None}


def test_torchvisions_form_is_accepted() -> None:
    empty = form(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    found = task.check_detections([form(masks=torch.zeros(3)), empty], 2)
    assert [set(one) for one in found] == [{"boxes", "scores", "labels"}] * 2
    assert len(found[1]["boxes"]) == 0


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torch.zeros(2, 5), "the model returns a tensor of shape (2, 5) and not detections"),
        (form(), "returns a dictionary of boxes, scores, labels and not detections"),
        ((torch.zeros(1), torch.zeros(1)), "returns a tuple of 2 (Tensor) and not detections"),
        (None, "returns a NoneType and not detections"),
        ([form()], "returns 1 dictionaries for 2 images"),
        ([form(), form(scores=None)], "detections without a tensor of scores"),
        ([form(), form(boxes=[1.0])], "detections without a tensor of boxes"),
        ([form(), form(boxes=torch.zeros(3, 5))], "whose boxes are of shape (3, 5)"),
        ([form(), form(scores=torch.zeros(2))], "with 3 boxes and scores of shape (2,)"),
        ([form(), form(labels=torch.ones(3, 1).long())], "and labels of shape (3, 1)"),
        ([form(), form(labels=torch.ones(3))], "with torch.float32 scores and torch.float32 label"),
    ],
)
def test_anything_else_is_refused_with_what_is_expected(output: object, expected: str) -> None:
    with pytest.raises(SubbyteError) as caught:
        task.check_detections(output, 2)
    assert expected in str(caught.value)
    assert "a list with a dictionary for each image" in str(caught.value)
    assert "wrap the model in a module" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    outputs = detected({7: [(1, 0.5, A), (2, 0.25, B)], 3: [], 9: [(1, 0.125, B)]})
    outputs.save(tmp_path / "o.npz")
    again = task.load(tmp_path / "o.npz")
    assert again.image_ids.tolist() == [7, 3, 9]
    for key in ("boxes", "scores", "labels"):
        for one, other in zip(getattr(outputs, key), getattr(again, key), strict=True):
            assert one.dtype == other.dtype
            assert one.tolist() == other.tolist()
    nothing = detected({1: [], 2: []})
    nothing.save(tmp_path / "n.npz")
    assert [b.shape for b in task.load(tmp_path / "n.npz").boxes] == [(0, 4), (0, 4)]


def test_outputs_of_tensors() -> None:
    found = [
        {"boxes": torch.tensor([A]).half(), "scores": torch.tensor([0.5]).bfloat16(),
         "labels": torch.tensor([3], dtype=torch.int32)},
        {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)},
    ]  # fmt: skip
    outputs = task.outputs_of(found, [5, 6])
    assert (outputs.images, outputs.detections) == (2, 1)
    assert outputs.boxes[0].tolist() == [list(A)]
    assert [a[0].dtype for a in (outputs.boxes, outputs.scores, outputs.labels)] == [
        np.float32, np.float32, np.int64,
    ]  # fmt: skip


def test_torchvisions_detectors_take_the_data_and_are_read() -> None:
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    batches = DetectionBatches(scenes("evaluation", range(2)), 2)
    (batch,) = batches
    losses = model(batch["inputs"], batch["targets"])
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        output = model.eval()(batch["inputs"])
    outputs = task.outputs_of(task.check_detections(output, 2), [1, 2])
    assert outputs.detections > 0
    found = coco.metrics(outputs, batches.objects, batches.dataset.classes)
    assert found.images == 2
    assert found.metrics["AP"] is not None
    assert 0 <= found.metrics["AP"] < 0.5


def test_overlaps_are_torchvisions() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (2, 20, 2))
    one, other = (np.concatenate([c, c + rng.uniform(1, 40, (20, 2))], 1) for c in corners)
    expected = box_iou(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(task.overlaps(one, other), expected, atol=1e-12)
    odd = np.array([[np.nan, 0, 1, 1], [3, 3, 3, 3], [5, 5, 4, 4], [np.inf, 0, np.inf, 1]])
    assert (task.overlaps(odd, odd) == 0).all()


def test_agreement_of_hand_worked_examples() -> None:
    one = detected({1: [(1, 0.9, (0, 0, 100, 100)), (2, 0.8, B)], 2: []})
    assert task.agreement(one, one) == 1
    # An IoU of 0.91 is enough, one of 0.89 is not: 2 · 1 / 4 and 0.
    for width, expected in ((91, 0.5), (89, 0.0)):
        other = detected({1: [(1, 0.1, (0, 0, width, 100)), (1, 0.8, B)], 2: []})
        assert task.agreement(one, other) == expected == task.agreement(other, one)
    # Two of the other may not both be matched with one: 2 · 1 / (2 + 2).
    twice = detected({1: [(2, 0.9, B), (2, 0.8, B)], 2: []})
    assert task.agreement(one, twice) == 0.5
    nothing = detected({1: [], 2: []})
    assert task.agreement(nothing, nothing) == 1
    assert task.agreement(one, nothing) == 0
    # From a score of 0.85 on there is one on each side, and they are not the same.
    assert task.agreement(one, twice, threshold=0.85) == 0


def test_the_best_pairs_come_first() -> None:
    one = detected({1: [(1, 0.9, (0, 0, 10, 10)), (1, 0.9, (0, 1, 10, 11))]})
    other = detected({1: [(1, 0.9, (0, 1, 10, 11)), (1, 0.9, (0, 2, 10, 12))]})
    ((mine, theirs),) = task.matches(one, other, 0.5)
    assert dict(zip(mine.tolist(), theirs.tolist(), strict=True)) == {1: 0, 0: 1}


def test_agreement_is_the_same_both_ways_round() -> None:
    for seed in range(5):
        _, one = random_set(seed)
        moved = tuple(boxes + np.float32(0.2) for boxes in one.boxes)
        other = task.DetectionOutputs(one.image_ids, moved, one.scores, one.labels)
        assert task.agreement(one, other) == task.agreement(other, one)
        assert 0 < task.agreement(one, other) <= 1


def test_outputs_of_other_images_are_not_compared() -> None:
    with pytest.raises(SubbyteError, match="are of different images"):
        task.agreement(detected({1: []}), detected({2: []}))


def test_figures_can_be_written_as_json() -> None:
    assert json.dumps(task.agreement(*[random_set(0)[1]] * 2)) == "1.0"
