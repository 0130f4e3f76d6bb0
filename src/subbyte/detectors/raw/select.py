"""From all boxes and scores to the detections that count: threshold, suppression, limits."""

from __future__ import annotations

import torch
from torch import Tensor

from subbyte.detection import Outputs
from subbyte.detectors.common.nms import Detections, best_of, nms_scores, rows


def select(outputs: Outputs, boxes: Tensor, scores: Tensor) -> Detections:
    """The detections that count, labels from 1 on.

    Args:
        outputs: Its thresholds and limits.
        boxes: [N, B, 4] in the corner form.
        scores: [N, B, classes].

    Returns:
        Boxes [N, K, 4], scores [N, K], labels [N, K], count [N], the highest scores first.
    """
    if (outputs.form, outputs.scores_by) == ("queries", "softmax"):  # a query is one object
        best, labels = scores.max(-1)
        return best_of(boxes, _above(best, outputs.score), labels + 1, outputs.limit)
    scores = scores.transpose(1, 2)  # N, C, B
    if outputs.overlap is None:
        return _highest(boxes, _above(scores, outputs.score), outputs.limit)
    if outputs.before < boxes.shape[1]:
        _, places = scores.amax(1).topk(outputs.before, 1)
        boxes = rows(boxes, places)
        scores = torch.gather(scores, 2, places.unsqueeze(1).expand(-1, scores.shape[1], -1))
    most = min(outputs.limit, boxes.shape[1])
    kept = nms_scores(boxes, scores, outputs.overlap, outputs.score, most)
    return _highest(boxes, kept, outputs.limit)


def _highest(boxes: Tensor, scores: Tensor, count: int) -> Detections:
    """The highest scores of all classes, labels from 1 on.

    Args:
        boxes: [N, B, 4].
        scores: [N, classes, B]; those of 0 do not count.
        count: How many at most.
    """
    classes, each = scores.shape[1], scores.shape[2]
    best, at = scores.reshape(-1, classes * each).topk(min(count, classes * each), 1)
    places = at % each
    # Runtimes divide in float32, which is exact if nothing is left over.
    labels = torch.div(at - places, each, rounding_mode="floor")
    return best_of(rows(boxes, places), best, labels + 1, count)


def _above(scores: Tensor, floor: float) -> Tensor:
    """Scores, 0 instead of those up to `floor`."""
    return scores * (scores > floor).to(scores.dtype)
