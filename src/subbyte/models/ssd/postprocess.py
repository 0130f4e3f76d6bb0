"""From what a network gives to detections: softmax, decoding, suppression of what overlaps."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from subbyte.models.ssd.boxes import decode
from subbyte.models.ssd.settings import Settings


def detections(
    regression: Tensor, logits: Tensor, defaults: Tensor, size: tuple[int, int], settings: Settings
) -> dict[str, Tensor]:
    """The objects of one image, highest scores first.

    Args:
        regression: [A, 4].
        logits: [A, C].
        defaults: The default boxes, [A, 4] in the centre form.
        size: Height and width of the image in pixels.
        settings: Thresholds and limits.

    Returns:
        `boxes` [D, 4] in corner form and pixels, within the image; `scores` [D]; `labels` [D],
        int64, 1 to C - 1.
    """
    height, width = size
    scale = regression.new_tensor([width, height, width, height])
    boxes = decode(regression, defaults, settings.variances) * scale
    scores = logits.softmax(dim=-1)[:, 1:]  # class 0 is the background
    best, places = scores.topk(min(settings.candidates, len(scores)), dim=0)
    labels = torch.arange(1, logits.shape[1], device=logits.device).expand_as(best)
    chosen = best > settings.score_threshold
    best, places, labels = best[chosen], places[chosen], labels[chosen]
    kept = batched_nms(boxes[places], best, labels, settings.nms_iou)[: settings.detections]
    found = clip_boxes_to_image(boxes[places[kept]], size)
    return {"boxes": found, "scores": best[kept], "labels": labels[kept]}
