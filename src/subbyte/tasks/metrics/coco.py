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


@dataclass(frozen=True)
class Matched:
    """Which detections find an object, image by image, at each of COCO's IoUs.

    Attributes:
        images: How many images there are.
        ious: How many IoUs.
        image: (N,) int32, the image of each detection, from 0 on.
        labels: (N,) int32.
        scores: (N,) float32.
        found: (N,) uint16, bit t: it finds an object at the IoU 0.50 + 0.05 · t.
        set_aside: (N,) uint16, likewise: it falls on a crowd or a difficult object.
        object_images: (M,) int32, the image of each object that counts.
        object_labels: (M,) int32.
    """

    images: int
    ious: int
    image: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    found: np.ndarray
    set_aside: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray

    def take(self, numbers: Sequence[int]) -> Matched:
        """The same of the images at `numbers`, each once, in that order."""
        places = np.full(self.images, -1, np.int32)
        places[np.asarray(numbers, np.int64)] = np.arange(len(numbers), dtype=np.int32)
        rows, objects = places[self.image] >= 0, places[self.object_images] >= 0
        return Matched(
            images=len(numbers),
            ious=self.ious,
            image=places[self.image][rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            found=self.found[rows],
            set_aside=self.set_aside[rows],
            object_images=places[self.object_images][objects],
            object_labels=self.object_labels[objects],
        )


def matched(outputs: DetectionOutputs, truth: Sequence[Objects], classes: Sequence[str]) -> Matched:
    """Which detections find an object; from these AP follows for any choice of the images.

    Args:
        outputs: The detections.
        truth: The objects of at least these images.
        classes: Their names, that of label 1 first.
    """
    own = truth_of(outputs, truth)
    clean, _ = numbers_only(outputs)
    evaluation = _evaluated(clean, own, classes, sizes=1)
    numbers = {number: i for i, number in enumerate(outputs.image_ids.tolist())}
    powers = 1 << np.arange(len(evaluation.params.iouThrs), dtype=np.uint16)
    kinds = (np.int32, np.int32, np.float32, np.uint16, np.uint16)
    rows: list[tuple[np.ndarray, ...]] = [tuple(np.empty(0, kind) for kind in kinds)]
    for found in filter(None, evaluation.evalImgs):
        count = len(found["dtScores"])
        place, label = numbers[found["image_id"]], found["category_id"]
        rows.append(
            (
                np.full(count, place, np.int32),
                np.full(count, label, np.int32),
                np.array(found["dtScores"], np.float32),
                (powers @ (np.array(found["dtMatches"]) > 0)).astype(np.uint16),
                (powers @ (np.array(found["dtIgnore"]) > 0)).astype(np.uint16),
            )
        )
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    image, labels, scores, found_at, set_aside = columns
    kept = [its.labels[~(its.iscrowd | its.difficult)] for its in own]
    object_images = np.repeat(np.arange(len(own), dtype=np.int32), [len(part) for part in kept])
    return Matched(
        images=outputs.images,
        ious=len(powers),
        image=image,
        labels=labels,
        scores=scores,
        found=found_at,
        set_aside=set_aside,
        object_images=object_images,
        object_labels=np.concatenate([np.empty(0, np.int32), *kept]).astype(np.int32),
    )


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
    evaluation = _evaluated(outputs, truth, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., 0]
    return precision


def _evaluated(
    outputs: DetectionOutputs,
    truth: Sequence[Objects],
    classes: Sequence[str],
    sizes: int = len(SIZES),
) -> _Evaluation:
    """Detections matched with objects; of objects of all sizes alone where `sizes` is 1."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        evaluation = _Evaluation(_index(coco_form(truth, classes)), _detections(outputs, classes))
        evaluation.params.iouType = "bbox"
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng = evaluation.params.areaRng[:sizes]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:sizes]
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
