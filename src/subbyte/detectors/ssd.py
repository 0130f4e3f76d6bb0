"""The SSD family (Liu et al. 2016): softmax, decoding of default boxes, NMS class by class.

It has torchvision's SSD and SSDlite, and every model whose attribute `subbyte_postprocessing` is an
`Anchored`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD, SSDScoringHead

from subbyte.detectors.base import Deployment, Family, Order
from subbyte.detectors.common.labels import labels_scored
from subbyte.detectors.common.loss import loss_in_training
from subbyte.detectors.common.nms import Detections, best_of, clipped, nms_scores, rows
from subbyte.detectors.common.one_stage import (
    RAW,
    REGIONS,
    OneStage,
    anchors_of,
    images_of,
    one_stage,
    size_of,
)
from subbyte.detectors.common.output_loss import of_anchors
from subbyte.detectors.common.preprocessing import ImagePreprocessing, preprocessing_of
from subbyte.detectors.letterbox import Letterbox, Sizes, ratio_kept
from subbyte.graph.float_model import Regional
from subbyte.graph.output_loss import OutputLoss
from subbyte.models import ssd as own
from subbyte.postprocessing import ATTRIBUTE, Anchored


class SsdBoxes(nn.Module):
    """From regressions [N, A, 4] and logits [N, A, C] to the detections of images of `size`."""

    def __init__(self, anchored: Anchored, size: tuple[int, int]) -> None:
        super().__init__()
        self.anchored, self.size = anchored, size
        self.register_buffer("defaults", anchored.boxes.clone())

    def forward(self, outputs: Mapping[str, Tensor]) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        anchored = self.anchored
        regression, logits = (outputs[name] for name in RAW)
        scores = logits.softmax(-1)[..., 1:].transpose(1, 2)  # N, C - 1, A
        classes, candidates = scores.shape[1], min(anchored.candidates, scores.shape[2])
        best, places = scores.topk(candidates, -1)
        chosen = rows(self.decoded(regression), places.flatten(1))  # N, (C - 1)·M, 4
        if anchored.clips_first:
            chosen = clipped(chosen, self.size)
        # For NMS each class of each image is an image of its own.
        kept = nms_scores(
            chosen.reshape(-1, candidates, 4),
            best.reshape(-1, 1, candidates),
            anchored.nms_iou,
            anchored.score_threshold,
            min(anchored.detections, candidates),
        ).reshape(-1, classes * candidates)
        labels = torch.arange(1, classes + 1, device=kept.device).repeat_interleave(candidates)
        found, *rest = best_of(chosen, kept, labels, anchored.detections)
        return found if anchored.clips_first else clipped(found, self.size), *rest  # type: ignore[return-value]

    def decoded(self, regression: Tensor) -> Tensor:
        """Boxes [N, A, 4] in the corner form and in pixels."""
        defaults, (height, width) = self.get_buffer("defaults"), self.size
        of_centres, of_sides = self.anchored.variances
        centres = defaults[:, :2] + regression[..., :2] * of_centres * defaults[:, 2:]
        logarithms = regression[..., 2:] * of_sides
        if self.anchored.limit is not None:
            logarithms = logarithms.clamp(max=self.anchored.limit)
        half = defaults[:, 2:] * torch.exp(logarithms) / 2
        corners = torch.cat([centres - half, centres + half], -1)
        return corners * corners.new_tensor([width, height, width, height])


def anchored_of(model: Any, images: Tensor) -> Anchored:
    """What happens around a model's network for images [N, 3, H, W] of one size.

    A model gives it itself, or it is torchvision's.
    """
    declared = _declared(model)
    if declared is not None:
        return declared
    transform, coder = model.transform, model.box_coder
    preprocessing = preprocessing_of(transform, size_of(images)).to(images.device)
    height, width = preprocessing.resized
    corners, _ = anchors_of(model, model.anchor_generator, preprocessing)
    low, high = corners[:, :2], corners[:, 2:]
    centred = torch.cat([(low + high) / 2, high - low], -1)
    return Anchored(
        mean=tuple(transform.image_mean),
        std=tuple(transform.image_std),
        size=preprocessing.resized,
        boxes=centred / corners.new_tensor([width, height, width, height]),
        score_threshold=model.score_thresh,
        nms_iou=model.nms_thresh,
        candidates=model.topk_candidates,
        detections=model.detections_per_img,
        variances=(1 / coder.weights[0], 1 / coder.weights[2]),
        limit=coder.bbox_xform_clip,
        clips_first=True,
    )


def _declared(model: nn.Module) -> Anchored | None:
    declared = getattr(model, ATTRIBUTE, None)
    return declared if isinstance(declared, Anchored) else None


def _matches(model: nn.Module) -> bool:
    return _declared(model) is not None or isinstance(model, SSD)


def _regions(model: nn.Module) -> tuple[str, ...] | None:
    return REGIONS if isinstance(model, SSD) else None


def _deployment(
    model: nn.Module, captured: Regional, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    images = images_of(args)
    anchored = anchored_of(model, images)
    network: nn.Module
    if _declared(model) is None:
        network = OneStage(model)
    else:
        network = model.get_submodule(captured.region_names[0])
    preprocessing = ImagePreprocessing(
        anchored.mean,
        anchored.std,
        size_of(images),
        anchored.size,
        antialias=anchored.antialias,
    ).to(images.device)
    boxes = _boxes(anchored, images) if postprocess else None
    return one_stage(preprocessing, network, boxes, images)


def _boxes(anchored: Anchored, images: Tensor) -> SsdBoxes:
    return SsdBoxes(anchored, size_of(images)).to(images.device)


def _output_loss(model: Any) -> OutputLoss:
    declared = _declared(model)
    if declared is None:
        per_side = tuple(model.box_coder.weights)
    else:
        per_side = tuple(1 / declared.variances[i] for i in (0, 0, 1, 1))
    return of_anchors(lambda logits: logits.softmax(-1)[..., 1:], per_side)


def _letterbox(model: Any, sizes: Sizes) -> Letterbox:
    declared = _declared(model)
    if declared is not None:
        return Letterbox(declared.size, antialias=declared.antialias)
    if model.transform.fixed_size is None:
        return ratio_kept(model, sizes)
    width, height = model.transform.fixed_size
    return Letterbox((height, width))


def _label_count(model: Any) -> int | None:
    if isinstance(model, own.SSD):
        return int(model.num_classes)
    if not isinstance(model, SSD):
        return None
    scoring = getattr(model.head, "classification_head", None)
    if isinstance(scoring, SSDScoringHead):
        return int(scoring.num_columns)
    return labels_scored(model, "head", "cls_logits")


FAMILY = Family(
    matches=_matches,
    order=Order.DECLARED,
    regions=_regions,
    deployment=_deployment,
    boxes=lambda model, images: _boxes(anchored_of(model, images), images),
    training_loss=loss_in_training,
    output_loss=_output_loss,
    letterbox=_letterbox,
    label_count=_label_count,
)
