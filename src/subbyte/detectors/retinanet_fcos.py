"""RetinaNet and FCOS: candidates of each feature map, decoded, and suppressed class by class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subbyte.detectors.nms import Detections, best_of, clipped, nms_scores, rows
from subbyte.detectors.preprocessing import Frame


class Boxes(nn.Module):
    """From a head's outputs to the detections of one of torchvision's two detectors.

    model: the detector. anchors: [A, 4], those of the levels one after the other; lengths: how many
    each level has.
    """

    def __init__(self, model: Any, frame: Frame, anchors: Tensor, lengths: list[int]) -> None:
        super().__init__()
        self.coder, self.frame, self.lengths = model.box_coder, frame, lengths
        self.floor, self.iou = float(model.score_thresh), float(model.nms_thresh)
        self.candidates, self.detections = model.topk_candidates, model.detections_per_img
        self.register_buffer("anchors", anchors)

    def forward(self, outputs: dict[str, Tensor]) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        scores = outputs["cls_logits"].sigmoid()
        if "bbox_ctrness" in outputs:
            scores = torch.sqrt(scores * outputs["bbox_ctrness"].sigmoid())
        parts = zip(
            torch.split(scores, self.lengths, 1),
            torch.split(outputs["bbox_regression"], self.lengths, 1),
            torch.split(self.get_buffer("anchors"), self.lengths),
            strict=True,
        )
        found = [self._level(*part) for part in parts]
        boxes, best, labels = (torch.cat(values, 1) for values in zip(*found, strict=True))
        classes = torch.arange(scores.shape[2], device=labels.device).view(1, -1, 1)
        alone = (labels.unsqueeze(1) == classes).to(best.dtype) * best.unsqueeze(1)  # N, C, M
        kept = nms_scores(boxes, alone, self.iou, self.floor, self.detections).sum(1)
        boxes, *rest = best_of(boxes, kept, labels, self.detections)
        return self.frame.in_pixels(boxes), *rest  # type: ignore[return-value]

    def _level(self, scores: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, ...]:
        """Boxes [N, M, 4], scores and labels [N, M] of a level's candidates."""
        classes, flat = scores.shape[2], scores.flatten(1)
        best, places = flat.topk(min(self.candidates, flat.shape[1]), 1)
        labels = places % classes
        # Runtimes divide in float32, which is exact if nothing is left over.
        at = torch.div(places - labels, classes, rounding_mode="floor")
        chosen = anchors[at]  # no expanding: OpenVINO errs in files that ask for the batch's size
        decode = getattr(self.coder, "decode_single", self.coder.decode)
        boxes = decode(rows(deltas, at).reshape(-1, 4), chosen.reshape(-1, 4))
        boxes = clipped(boxes.reshape(-1, best.shape[1], 4), self.frame.resized)
        return boxes, best, labels
