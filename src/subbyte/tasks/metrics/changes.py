"""What quantization did to the objects that a detector finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics.detection import DetectionOutputs, matches, numbers_only, overlaps
from subbyte.tasks.metrics.matching import FOUND_IOU, Ranked, ranked


def changes(
    reference: DetectionOutputs, outputs: DetectionOutputs, truth: Sequence[Objects]
) -> dict[str, float | int | None]:
    """What became of the float model's detections in a variant's, on the same images.

    Everything is at the float model's own operating point, the score `threshold` at which its F1
    against the ground truth is best (IoU 0.5; `precision`, `recall` and `f1` are those there):

    - `detections`: how many it has from that score on; `images`: on how many images.
    - `lost`: the share of these that no detection in `outputs` matches: from the same score on, of
      the same class and with an IoU of 0.5; `gained`: how many in `outputs` match none of the float
      ones, as a share of the number of float ones.
    - `score_shift`: the mean change of the score, `iou` the mean IoU, of the float detections and
      what matches them in `outputs`, these with any score.
    - `threshold_for_recall`: the highest score at which `outputs` find as many objects as the float
      model does; `None` if they never do.

    A share or mean of nothing is `None`; so is all but the counts where the float model finds
    nothing.

    Args:
        reference: The float model's detections.
        outputs: The variant's.
        truth: What is on the images.
    """
    (reference, _), (outputs, _) = numbers_only(reference), numbers_only(outputs)
    point = best_f1(ranked(reference, truth))
    known: dict[str, float | int | None] = dict.fromkeys(
        ("threshold", "f1", "precision", "recall", "lost", "gained", "score_shift", "iou")
    )
    known |= {"threshold_for_recall": None, "detections": 0, "images": reference.images}
    if point is None:
        return known
    threshold = point["threshold"]
    floats, now = reference.above(threshold), outputs.above(threshold)
    kept = sum(len(first) for first, _ in matches(floats, now, FOUND_IOU))
    return {
        **known,
        **point,
        "detections": floats.detections,
        "lost": 1 - kept / floats.detections,
        "gained": (now.detections - kept) / floats.detections,
        **_shift(floats, outputs),
        "threshold_for_recall": _threshold_for(point["recall"], ranked(outputs, truth)),
    }


def best_f1(found: Ranked) -> dict[str, float] | None:
    """The score threshold with the best F1 over all classes together, and what it gives.

    `None` where no object is found. Of equal ones, the highest threshold.
    """
    objects = sum(found.objects.values())
    right, wrong, last = _counted(found)
    if not objects or not right.size or right[-1] == 0:
        return None
    scores = 2 * right / (right + wrong + objects)
    best = int(np.argmax(np.where(last, scores, -1)))
    return {
        "threshold": float(found.scores[best]),
        "f1": float(scores[best]),
        "precision": float(right[best] / (right[best] + wrong[best])),
        "recall": float(right[best] / objects),
    }


def _counted(found: Ranked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right and wrong ones down to each detection, and whether the next one's score is another."""
    right = np.cumsum(found.matched & found.counts)
    wrong = np.cumsum(~found.matched & found.counts)
    last = np.append(found.scores[1:] != found.scores[:-1], True)[: found.scores.size]
    return right, wrong, last


def _threshold_for(recall: float, found: Ranked) -> float | None:
    right, _, last = _counted(found)
    objects = sum(found.objects.values())
    enough = np.flatnonzero(last & (right >= recall * objects - 1e-9))
    return float(found.scores[enough[0]]) if enough.size else None


def _shift(floats: DetectionOutputs, outputs: DetectionOutputs) -> dict[str, float | None]:
    """The mean change of the score and the mean IoU of matched detections."""
    shifts: list[np.ndarray] = []
    ious: list[np.ndarray] = []
    for i, (mine, theirs) in enumerate(matches(floats, outputs, FOUND_IOU)):
        shifts.append(outputs.scores[i][theirs].astype(np.float64) - floats.scores[i][mine])
        ious.append(overlaps(floats.boxes[i], outputs.boxes[i])[mine, theirs])
    if not sum(map(len, ious)):
        return {"score_shift": None, "iou": None}
    return {
        "score_shift": float(np.concatenate(shifts).mean()),
        "iou": float(np.concatenate(ious).mean()),
    }
