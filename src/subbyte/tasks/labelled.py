"""Batches as users bring them, with what should come out: a task's truth of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from subbyte.data.batches import Batch
from subbyte.data.detection.listing import Objects
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics import classification, coco
from subbyte.tasks.metrics import detection as detections

CLASSIFICATION, DETECTION = "classification", "detection"


@dataclass(frozen=True)
class Scores:
    """Metrics on labelled images.

    Attributes:
        metrics: Name → a share in [0, 1], or `None` where there is none.
        images: On how many images.
        intervals: Metric → its 95 % interval, where it has one.
        per_class: Of detectors: class → AP.
        notes: What a reader must know.
    """

    metrics: dict[str, float | None]
    images: int
    intervals: dict[str, tuple[float, float]]
    per_class: dict[str, float | None]
    notes: tuple[str, ...] = ()


def kind_of(targets: Any) -> str | None:
    """The task for which such targets are; `None` where there are none, or others."""
    if isinstance(targets, torch.Tensor) and targets.dim() == 1:
        return None if targets.is_floating_point() else CLASSIFICATION
    if isinstance(targets, list | tuple) and targets and isinstance(targets[0], Mapping):
        return DETECTION
    return None


def objects_in(batch: Batch, first: int) -> list[Objects]:
    """What the targets of a detector's batch say is on its images.

    Args:
        batch: The batch.
        first: The number of its first image.

    Raises:
        SubbyteError: A target has no boxes or labels, or not as many.
    """
    images = zip(batch.args[0], batch.targets or (), strict=True)
    return [_objects(target, image, first + i) for i, (image, target) in enumerate(images)]


def class_scores(outputs: classification.Logits) -> Scores:
    """Metrics of a classifier; `SubbyteError` where a label is none of its classes."""
    classes, labels = outputs.logits.shape[1], outputs.labels
    strange = labels[(labels < 0) | (labels >= classes)]
    if strange.size:
        raise SubbyteError(
            f"a label is {strange[0]}, and the model has {classes} classes: labels are their "
            f"numbers, 0 to {classes - 1}"
        )
    found = classification.metrics(outputs)
    key = classification.PRIMARY_METRIC
    interval = classification.interval(found[key], outputs.images)
    return Scores(dict(found), outputs.images, {key: interval}, {})


def object_scores(
    outputs: detections.DetectionOutputs, truth: Sequence[Objects], classes: Sequence[str] | None
) -> Scores:
    """Metrics of a detector.

    Args:
        outputs: What it found.
        truth: What is on the images.
        classes: Names, that of label 1 first; `None`: labels are their own names.
    """
    known = [int(x) for part in (*outputs.labels, *(its.labels for its in truth)) for x in part]
    most = max(known, default=0)
    names = list(classes or ())
    names += [str(label) for label in range(len(names) + 1, most + 1)]
    found = coco.metrics(outputs, truth, names)
    return Scores(found.metrics, found.images, {}, found.per_class, found.notes)


def _objects(target: Mapping[str, Any], image: torch.Tensor, number: int) -> Objects:
    missing = [key for key in ("boxes", "labels") if key not in target]
    if missing:
        raise SubbyteError(
            f"the target of image {number} has no {missing[0]}: give boxes (n, 4: x0, y0, x1, y1 "
            "in pixels) and labels (n, from 1)"
        )
    boxes = np.asarray(torch.as_tensor(target["boxes"]).cpu(), np.float32).reshape(-1, 4)
    labels = np.asarray(torch.as_tensor(target["labels"]).cpu(), np.int64).reshape(-1)
    if len(boxes) != len(labels):
        raise SubbyteError(
            f"the target of image {number} has {len(boxes)} boxes and {len(labels)} labels: give "
            "one for each"
        )
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    area = _column(target.get("area"), sides.prod(1), np.float64)
    crowd = _column(target.get("iscrowd"), np.zeros(len(boxes)), np.bool_)
    size = (image.shape[-2], image.shape[-1])
    return Objects(number, size, boxes, labels, area, crowd, np.zeros(len(boxes), bool))


def _column(given: Any, otherwise: np.ndarray, kind: Any) -> np.ndarray:
    values = otherwise if given is None else np.asarray(torch.as_tensor(given).cpu())
    return values.astype(kind).reshape(-1)
