"""torchvision's RetinaNet and FCOS: candidates of each feature map, decoding, NMS by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.fcos import FCOSClassificationHead
from torchvision.models.detection.retinanet import RetinaNetClassificationHead

from subbyte.detectors.base import Deployment, Family
from subbyte.detectors.common.labels import labels_scored
from subbyte.detectors.common.loss import loss_in_training
from subbyte.detectors.common.nms import Detections, best_of, clipped, nms_scores, rows
from subbyte.detectors.common.one_stage import (
    REGIONS,
    OneStage,
    anchors_of,
    images_of,
    one_stage,
    size_of,
)
from subbyte.detectors.common.output_loss import of_anchors
from subbyte.detectors.common.preprocessing import ImagePreprocessing, preprocessing_of
from subbyte.graph.float_model import Regional


def scores_of(logits: Tensor, centredness: Tensor | None = None) -> Tensor:
    """Scores [N, A, classes] of logits, and of FCOS's centredness [N, A, 1]."""
    scores = logits.sigmoid()
    return scores if centredness is None else torch.sqrt(scores * centredness.sigmoid())


class RetinaNetBoxes(nn.Module):
    """From a head's outputs to the detections of RetinaNet or FCOS.

    Args:
        model: The detector.
        preprocessing: From images to the network's batch.
        anchors: [A, 4], those of one feature map after the other.
        lengths: How many anchors each feature map has.
    """

    def __init__(
        self, model: Any, preprocessing: ImagePreprocessing, anchors: Tensor, lengths: list[int]
    ) -> None:
        super().__init__()
        self.coder, self.preprocessing, self.lengths = model.box_coder, preprocessing, lengths
        self.floor, self.iou = float(model.score_thresh), float(model.nms_thresh)
        self.candidates, self.detections = model.topk_candidates, model.detections_per_img
        self.register_buffer("anchors", anchors)

    def forward(self, outputs: Mapping[str, Tensor]) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        scores = scores_of(outputs["cls_logits"], outputs.get("bbox_ctrness"))
        parts = zip(
            torch.split(scores, self.lengths, 1),
            torch.split(outputs["bbox_regression"], self.lengths, 1),
            torch.split(self.get_buffer("anchors"), self.lengths),
            strict=True,
        )
        found = [self._of_map(*part) for part in parts]
        boxes, best, labels = (torch.cat(values, 1) for values in zip(*found, strict=True))
        classes = torch.arange(scores.shape[2], device=labels.device).view(1, -1, 1)
        alone = (labels.unsqueeze(1) == classes).to(best.dtype) * best.unsqueeze(1)  # N, C, M
        kept = nms_scores(boxes, alone, self.iou, self.floor, self.detections).sum(1)
        boxes, *rest = best_of(boxes, kept, labels, self.detections)
        return self.preprocessing.in_pixels(boxes), *rest  # type: ignore[return-value]

    def _of_map(self, scores: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, ...]:
        """Boxes [N, M, 4], scores and labels [N, M] of a feature map's candidates."""
        classes, flat = scores.shape[2], scores.flatten(1)
        best, places = flat.topk(min(self.candidates, flat.shape[1]), 1)
        labels = places % classes
        # Runtimes divide in float32, which is exact if nothing is left over.
        at = torch.div(places - labels, classes, rounding_mode="floor")
        chosen = anchors[at]  # no expanding: OpenVINO errs in files that ask for the batch's size
        decode = getattr(self.coder, "decode_single", self.coder.decode)
        boxes = decode(rows(deltas, at).reshape(-1, 4), chosen.reshape(-1, 4))
        boxes = clipped(boxes.reshape(-1, best.shape[1], 4), self.preprocessing.resized)
        return boxes, best, labels


def _deployment(
    model: Any, captured: Regional, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    images = images_of(args)
    boxes = _boxes(model, images) if postprocess else None
    return one_stage(_preprocessing(model, images), OneStage(model), boxes, images)


def _preprocessing(model: Any, images: Tensor) -> ImagePreprocessing:
    return preprocessing_of(model.transform, size_of(images)).to(images.device)


def _boxes(model: Any, images: Tensor) -> RetinaNetBoxes:
    preprocessing = _preprocessing(model, images)
    anchors, lengths = anchors_of(model, model.anchor_generator, preprocessing)
    return RetinaNetBoxes(model, preprocessing, anchors, lengths)


def _label_count(model: Any) -> int | None:
    scoring = getattr(model.head, "classification_head", None)
    if isinstance(scoring, RetinaNetClassificationHead | FCOSClassificationHead):
        return int(scoring.num_classes)
    return labels_scored(model, "head", "cls_logits")


FAMILY = Family(
    matches=lambda model: isinstance(model, RetinaNet | FCOS),
    regions=lambda _: REGIONS,
    deployment=_deployment,
    boxes=_boxes,
    training_loss=loss_in_training,
    output_loss=lambda _: of_anchors(scores_of),
    label_count=_label_count,
)
