from __future__ import annotations

import numpy as np
import pytest

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics import coco
from subbyte.tasks.metrics.coco_resampled import paired_ap
from subbyte.tasks.metrics.detection import DetectionOutputs

CLASSES = ("a", "b", "c")


def scene(seed: int, images: int = 40) -> tuple[list[Objects], DetectionOutputs, DetectionOutputs]:
    """Objects, and detections that are near them, and others that are further off."""
    generator = np.random.default_rng(seed)
    truth, found = [], {0.5: [], 4.0: []}
    for i in range(images):
        count = int(generator.integers(1, 5))
        corners = generator.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(10, 40, (count, 2))], 1)
        labels = generator.integers(1, 4, count)
        truth.append(
            Objects(
                boxes=boxes.astype(np.float32),
                labels=labels.astype(np.int64),
                area=np.prod(boxes[:, 2:] - boxes[:, :2], 1),
                iscrowd=np.zeros(count, bool),
                difficult=np.zeros(count, bool),
                image_id=i,
                size=(128, 128),
            )
        )
        for noise, parts in found.items():
            moved = boxes + generator.normal(0, noise, boxes.shape)
            wrong = np.where(generator.random(count) < 0.1, labels % 3 + 1, labels)
            parts.append(
                (moved.astype(np.float32), generator.random(count).astype(np.float32), wrong)
            )
    numbers = np.arange(images)
    outputs = [
        DetectionOutputs(numbers, *(tuple(part[k] for part in parts) for k in range(3)))
        for parts in found.values()
    ]
    return truth, outputs[0], outputs[1]


def test_the_metric_is_pycocotools_own() -> None:
    truth, first, second = scene(0)
    found = paired_ap(first, second, truth, CLASSES)
    assert found.before == pytest.approx(coco.metrics(first, truth, CLASSES).metrics["AP"])
    assert found.after == pytest.approx(coco.metrics(second, truth, CLASSES).metrics["AP"])
    assert found.images == 40


@pytest.mark.slow
def test_the_error_is_that_of_aps_on_images_drawn_again() -> None:
    truth, first, second = scene(1)
    generator = np.random.default_rng(5)
    lost = []
    for _ in range(40):
        numbers = generator.integers(0, 40, 40)
        drawn = [outputs.take(numbers) for outputs in (first, second)]
        # pycocotools wants each image once: those that are drawn twice get a number of their own.
        own = [Objects(**{**vars(truth[n]), "image_id": i}) for i, n in enumerate(numbers.tolist())]
        aps = []
        for outputs in drawn:
            again = DetectionOutputs(np.arange(40), outputs.boxes, outputs.scores, outputs.labels)
            aps.append(coco.metrics(again, own, CLASSES).metrics["AP"])
        assert aps[0] is not None
        assert aps[1] is not None
        lost.append(aps[0] - aps[1])
    found = paired_ap(first, second, truth, CLASSES)
    assert found.error == pytest.approx(float(np.std(lost, ddof=1)), rel=0.35)
