"""Objects and detections in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics.detection import DetectionOutputs

Box = tuple[float, float, float, float]


def objects(
    image_id: int,
    rows: Sequence[tuple[Any, ...]],
    *,
    crowd: Sequence[int] = (),
    difficult: Sequence[int] = (),
) -> Objects:
    """Objects of an image of 200 x 200 from (label, box); `crowd`, `difficult`: indices of such."""
    boxes = np.array([row[1] for row in rows], np.float32).reshape(-1, 4)
    return Objects(
        image_id=image_id,
        size=(200, 200),
        boxes=boxes,
        labels=np.array([row[0] for row in rows], np.int64),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
        iscrowd=np.isin(np.arange(len(rows)), crowd),
        difficult=np.isin(np.arange(len(rows)), difficult),
    )


def detected(rows: dict[int, Sequence[tuple[int, float, Any]]]) -> DetectionOutputs:
    """DetectionOutputs from image id → list of (label, score, box)."""
    return DetectionOutputs(
        np.array(list(rows), np.int64),
        tuple(np.array([r[2] for r in own], np.float32).reshape(-1, 4) for own in rows.values()),
        tuple(np.array([r[1] for r in own], np.float32) for own in rows.values()),
        tuple(np.array([r[0] for r in own], np.int64) for own in rows.values()),
    )


def random_set(seed: int, images: int = 12) -> tuple[list[Objects], DetectionOutputs]:
    """Objects of three classes and all sizes, some crowds, and detections near most of them."""
    rng = np.random.default_rng(seed)
    truth, found = [], {}
    for number in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 80, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 115, (count, 2))], 1)
        labels = rng.integers(1, 4, count)
        crowd = [i for i in range(count) if rng.random() < 0.1]
        rows = list(zip(labels.tolist(), boxes.tolist(), strict=True))
        truth.append(objects(100 - number, rows, crowd=crowd))
        near = [
            (label, float(rng.random()), (np.array(box) + rng.normal(0, 3, 4)).tolist())
            for label, box in rows
            for _ in range(int(rng.integers(0, 3)))
        ]
        far = [
            (int(rng.integers(1, 4)), float(rng.random()), [10, 10, *rng.uniform(20, 190, 2)])
            for _ in range(int(rng.integers(0, 3)))
        ]
        found[100 - number] = near + far
    return truth, detected(found)
