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
    if outputs.overlap is None:
        boxes, best, labels = candidates(boxes, scores, outputs.limit)
        return best_of(boxes, _above(best, outputs.score), labels + 1, outputs.limit)
    boxes, best, labels = candidates(boxes, scores, outputs.before)
    classes = torch.arange(scores.shape[2], device=labels.device).view(1, -1, 1)
    alone = (labels.unsqueeze(1) == classes).to(best.dtype) * best.unsqueeze(1)  # N, C, M
    most = min(outputs.limit, best.shape[1])
    kept = nms_scores(boxes, alone, outputs.overlap, outputs.score, most).sum(1)
    return best_of(boxes, kept, labels + 1, outputs.limit)


def candidates(boxes: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest scores of each image: boxes [N, M, 4], scores and classes [N, M].

    Args:
        boxes: [N, B, 4].
        scores: [N, B, classes].
        most: How many scores at most.
    """
    # The highest scores are those of as many boxes with the highest best score. To look for these
    # first pays where there are many more.
    if 2 * most < scores.shape[1]:
        _, places = scores.amax(-1).topk(most, 1)
        boxes, scores = rows(boxes, places), rows(scores, places)
    count, classes = scores.shape[1:]
    best, at = scores.reshape(-1, count * classes).topk(min(most, count * classes), 1)
    labels = at % classes
    # Runtimes divide in float32, which is exact if nothing is left over.
    places = torch.div(at - labels, classes, rounding_mode="floor")
    return rows(boxes, places), best, labels


def _above(scores: Tensor, floor: float) -> Tensor:
    """Scores, 0 instead of those up to `floor`."""
    return scores * (scores > floor).to(scores.dtype)
