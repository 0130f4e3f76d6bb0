"""Non-maximum suppression (NMS) of fixed shape, and what all detectors do behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
import torchvision
from onnxscript import opset21 as op
from torch import Tensor, nn

OUTPUTS = ("boxes", "scores", "labels", "count")
Detections = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("subbyte::nms_scores", mutates_args=())
def _nms_scores(boxes: Tensor, scores: Tensor, iou: float, floor: float, most: int) -> Tensor:
    kept = torch.zeros_like(scores)
    for image in range(scores.shape[0]):
        for group in range(scores.shape[1]):
            row = scores[image, group]
            chosen = torch.nonzero(row > floor).flatten()
            best = torchvision.ops.nms(boxes[image, chosen], row[chosen], iou)[:most]
            kept[image, group, chosen[best]] = row[chosen[best]]
    return kept


_nms_scores.register_fake(lambda _boxes, scores, *_: torch.empty_like(scores))


def nms_scores(boxes: Tensor, scores: Tensor, iou: float, floor: float, most: int) -> Tensor:
    """Scores [B, G, N] with 0 for those that are suppressed.

    Args:
        boxes: [B, N, 4] in the corner form.
        scores: [B, G, N]; the G groups do not suppress each other.
        iou: A score stays if its box overlaps no box of a higher score by more than that.
        floor: Scores up to this one never stay.
        most: How many of each group stay at most.
    """
    kept: Tensor = torch.ops.subbyte.nms_scores(boxes, scores, iou, floor, most)
    return kept


def _onnx_nms_scores(boxes: Any, scores: Any, iou: float, floor: float, most: int) -> Any:
    def constant(value: float, kind: int) -> Any:
        return op.Constant(value=onnx.helper.make_tensor("value", kind, [1], [value]))

    limits = (
        constant(most, onnx.TensorProto.INT64),
        constant(iou, onnx.TensorProto.FLOAT),
        constant(floor, onnx.TensorProto.FLOAT),
    )
    kept = op.NonMaxSuppression(boxes, scores, *limits)
    zeros = op.Mul(scores, constant(0.0, onnx.TensorProto.FLOAT))
    return op.ScatterND(zeros, kept, op.GatherND(scores, kept))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.subbyte.nms_scores.default: _onnx_nms_scores
}


def best_of(boxes: Tensor, scores: Tensor, labels: Tensor, count: int) -> Detections:
    """The highest scores of each image, with their boxes and labels.

    Args:
        boxes: [B, M, 4].
        scores: [B, M]; those of 0 do not count.
        labels: [B, M], or [M] for all images.
        count: K, how many to take.

    Returns:
        Boxes [B, K, 4], scores and labels [B, K], and how many there are [B]; what is behind these
        is 0.
    """
    missing = count - scores.shape[1]
    if missing > 0:
        scores, labels = (nn.functional.pad(x, (0, missing)) for x in (scores, labels))
        boxes = nn.functional.pad(boxes, (0, 0, 0, missing))
    best, places = scores.topk(count, 1)
    present = best > 0
    found = rows(boxes, places) * present.unsqueeze(-1).to(boxes.dtype)
    classes = labels[places] if labels.dim() == 1 else torch.gather(labels, 1, places)
    classes = classes * present.to(labels.dtype)
    return found, best, classes, present.to(torch.int64).sum(1)


def rows(values: Tensor, places: Tensor) -> Tensor:
    """Of values [B, N, 4] the rows at places [B, M]."""
    return torch.gather(values, 1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def clipped(boxes: Tensor, size: tuple[int, int] | tuple[float, float]) -> Tensor:
    """Boxes [..., 4] in the corner form, within an image of a height and width."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
