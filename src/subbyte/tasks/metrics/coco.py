"""COCO's metrics of detections, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from subbyte.data.detection.listing import Objects, coco_form
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics.detection import DetectionOutputs, numbers_only

MAX_DETECTIONS = 100  # an image, those of the highest scores: COCO's rule
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class CocoScores:
    """COCO's metrics of a detector's outputs.

    Attributes:
        metrics: `AP` (IoU 0.50 to 0.95), `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, in
            [0, 1]; `None` where there is no object of that kind.
        per_class: Class name → AP.
        images: On how many images.
        notes: What a reader of the figures must know.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, float | None]
    images: int
    notes: tuple[str, ...] = field(default=())


def metrics(
    outputs: DetectionOutputs, truth: Sequence[Objects], classes: Sequence[str]
) -> CocoScores:
    """COCO's metrics of `outputs`, against what is on just the images that they are of.

    Crowds and difficult objects count neither as found nor as missed. A detection whose box or
    score is not a number counts as a wrong one.

    Args:
        outputs: The detections.
        truth: The objects of at least these images, each with its `image_id`.
        classes: Their names, that of label 1 first.

    Raises:
        SubbyteError: An image is not in `truth` or is there twice.
    """
    own = truth_of(outputs, truth)
    clean, bad = numbers_only(outputs)  # pycocotools counts a box that is NaN as found
    notes = _oddities(outputs, bad, len(classes))
    if not outputs.detections:
        notes.append(f"no detections at all on {outputs.images} images: AP is 0")
    if not any(map(len, own)):
        notes.append(f"no objects at all on {outputs.images} images: there is no AP")
    precision = _precision(clean, own, classes)
    found = {"AP": _mean(precision[..., 0]), "AP50": _mean(precision[0, ..., 0])}
    found["AP75"] = _mean(precision[5, ..., 0])
    for i, size in enumerate(SIZES[1:], 1):
        found[f"AP_{size}"] = _mean(precision[..., i])
    per_class = {name: _mean(precision[:, :, k, 0]) for k, name in enumerate(classes)}
    return CocoScores(found, per_class, outputs.images, tuple(notes))


def truth_of(outputs: DetectionOutputs, truth: Sequence[Objects]) -> list[Objects]:
    """What is on the images of `outputs`, in their order.

    Raises `SubbyteError` if an image is not in `truth`, or is in one of the two more than once.
    """
    known = {found.image_id: found for found in truth}
    ids = outputs.image_ids.tolist()
    missing = [number for number in ids if number not in known]
    if missing:
        raise SubbyteError(
            f"nothing is known of what is on image {missing[0]}, which was run: give the ground "
            "truth of every image"
        )
    if len(known) < len(truth) or len(set(ids)) < len(ids):
        raise SubbyteError("two images have the same image_id: number each image differently")
    return [known[number] for number in ids]


class _Evaluation(COCOeval):  # type: ignore[misc]
    """COCO's evaluation, in which difficult objects are set aside like crowds."""

    def _prepare(self) -> None:
        super()._prepare()
        for found in self._gts.values():
            for entry in found:
                entry["ignore"] = bool(entry["ignore"] or entry["difficult"])


def _precision(
    outputs: DetectionOutputs, truth: Sequence[Objects], classes: Sequence[str]
) -> np.ndarray:
    """Precision by IoU (10), recall (101), class and size (4); -1 where there are no objects."""
    evaluation = evaluated(outputs, truth, classes)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., 0]
    return precision


def evaluated(
    outputs: DetectionOutputs, truth: Sequence[Objects], classes: Sequence[str]
) -> COCOeval:
    """COCO's evaluation with each image's detections matched.

    Args:
        outputs: The detections; all of their boxes and scores are numbers.
        truth: The objects of just these images.
        classes: Their names.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        evaluation = _Evaluation(_index(coco_form(truth, classes)), _detections(outputs, classes))
        evaluation.params.iouType = "bbox"
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    return evaluation


def _index(content: Any) -> Any:
    index = COCO()
    index.dataset = content
    index.createIndex()
    return index


def _detections(outputs: DetectionOutputs, classes: Sequence[str]) -> Any:
    entries: list[dict[str, object]] = []
    for number, boxes, scores, labels in zip(
        outputs.image_ids.tolist(), outputs.boxes, outputs.scores, outputs.labels, strict=True
    ):
        rows = zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
        for (x0, y0, x1, y1), score, label in rows:
            box = [x0, y0, x1 - x0, y1 - y0]
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": score,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label} for label in range(1, len(classes) + 1)]
    images = [{"id": number} for number in outputs.image_ids.tolist()]
    return _index({"images": images, "annotations": entries, "categories": categories})


def _oddities(outputs: DetectionOutputs, bad: int, classes: int) -> list[str]:
    notes = []
    if bad:
        notes.append(f"detections that are not numbers, counted as wrong: {bad}")
    strangers = sum(int(((found < 1) | (found > classes)).sum()) for found in outputs.labels)
    if strangers:
        notes.append(
            f"detections with labels that are none of the {classes} classes, which count nowhere: "
            f"{strangers}"
        )
    return notes


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
