"""torchvision's Faster R-CNN: proposals, what is pooled of feature maps for each, their boxes."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from onnxscript import opset21 as op
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from subbyte.detectors.base import Deployment, Family
from subbyte.detectors.common.chain import chained
from subbyte.detectors.common.copies import evaluating
from subbyte.detectors.common.labels import labels_scored
from subbyte.detectors.common.nms import (
    OUTPUTS,
    Detections,
    best_of,
    clipped,
    nms_scores,
    rows,
)
from subbyte.detectors.common.one_stage import anchors_of, images_of, size_of
from subbyte.detectors.common.preprocessing import ImagePreprocessing, preprocessing_of
from subbyte.graph.float_model import Regional

REGIONS = ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")


@torch.library.custom_op("subbyte::roi_align", mutates_args=())
def _roi_align(
    x: Tensor, boxes: Tensor, images: Tensor, scale: float, height: int, width: int, samples: int
) -> Tensor:
    rois = torch.cat([images.to(boxes.dtype).unsqueeze(1), boxes], 1)
    pooled: Tensor = torchvision.ops.roi_align(x, rois, (height, width), scale, samples)
    return pooled


_roi_align.register_fake(
    lambda x, boxes, _images, _scale, height, width, _samples: x.new_empty(
        boxes.shape[0], x.shape[1], height, width
    )
)


def _onnx_roi_align(
    x: Any, boxes: Any, images: Any, scale: float, height: int, width: int, samples: int
) -> Any:
    return op.RoiAlign(
        x,
        boxes,
        images,
        coordinate_transformation_mode="output_half_pixel",
        mode="avg",
        output_height=height,
        output_width=width,
        sampling_ratio=max(samples, 0),
        spatial_scale=scale,
    )


class TwoStages(nn.Module):
    """torchvision's Faster R-CNN from images [N, 3, H, W] of one size to detections.

    Args:
        model: The detector, after it has run on images: only then does its pool know the feature
            maps' strides.
        preprocessing: From images to the backbone's batch.
        anchors: [A, 4], those of one feature map after the other.
        lengths: How many anchors each feature map has.
    """

    def __init__(
        self, model: Any, preprocessing: ImagePreprocessing, anchors: Tensor, lengths: list[int]
    ) -> None:
        super().__init__()
        self.preprocessing, self.lengths = preprocessing, lengths
        self.backbone, self.head = model.backbone, model.rpn.head
        self.box_head, self.predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
        self.rpn = Proposals(model.rpn, preprocessing.resized)
        self.boxes = FasterRcnnBoxes(model.roi_heads, preprocessing.resized)
        self.pool = RoiPooling(model.roi_heads.box_roi_pool)
        self.register_buffer("anchors", anchors)

    def forward(self, images: Tensor) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        features = self.backbone(self.preprocessing(images))
        features = {"0": features} if isinstance(features, Tensor) else features
        objectness, deltas = self.head(list(features.values()))
        anchors = torch.split(self.get_buffer("anchors"), self.lengths)
        proposals, scores = self.rpn(objectness, deltas, anchors)
        logits, regression = self.predictor(self.box_head(self.pool(features, proposals)))
        boxes, *rest = self.boxes(proposals, scores, logits, regression)
        return self.preprocessing.in_pixels(boxes), *rest


class Proposals(nn.Module):
    """The proposals of a region proposal network."""

    def __init__(self, rpn: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.coder = size, rpn.box_coder
        self.candidates, self.count = rpn.pre_nms_top_n(), rpn.post_nms_top_n()
        self.iou, self.floor, self.smallest = rpn.nms_thresh, rpn.score_thresh, rpn.min_size

    def forward(
        self, objectness: list[Tensor], deltas: list[Tensor], anchors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Proposals [N, P, 4] in the resized image; scores [N, P], 0 where there is no proposal.

        Args:
            objectness: Of each feature map, [N, anchors of a place, h, w].
            deltas: Of each feature map, [N, 4 · anchors of a place, h, w].
            anchors: The anchors' corners in pixels of the resized image.
        """
        maps = [self._of_map(*part) for part in zip(objectness, deltas, anchors, strict=True)]
        boxes = torch.cat([of_map[0] for of_map in maps], 1)
        alone = [
            torch.cat([x if i == k else x * 0 for k, (_, x) in enumerate(maps)], 1)
            for i in range(len(maps))
        ]
        scores = torch.stack(alone, 1)  # N, maps, M
        kept = nms_scores(boxes, scores, self.iou, 0.0, self.count).sum(1)
        best, places = kept.topk(min(self.count, kept.shape[1]), 1)
        return rows(boxes, places), best

    def _of_map(self, objectness: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        each = objectness.shape[1]  # anchors at a place
        logits = objectness.permute(0, 2, 3, 1).flatten(1)
        codes = torch.unflatten(deltas, 1, (each, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        best, places = logits.topk(min(self.candidates, logits.shape[1]), 1)
        chosen = anchors[places].reshape(-1, 4)
        flat = self.coder.decode(rows(codes, places).reshape(-1, 4), [chosen])
        boxes = clipped(flat.reshape(-1, best.shape[1], 4), self.size)
        scores = best.sigmoid()
        wanted = _large(boxes, self.smallest) & (scores >= self.floor)
        return boxes, scores * wanted.to(scores.dtype)


class RoiPooling(nn.Module):
    """RoIAlign on the feature map that suits each proposal's size."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.names, self.scales, self.map_levels = pool.featmap_names, pool.scales, pool.map_levels
        self.size, self.samples = tuple(pool.output_size), pool.sampling_ratio

    def forward(self, features: dict[str, Tensor], proposals: Tensor) -> Tensor:
        """Of proposals [N, P, 4] [N · P, C, height, width]."""
        ones = proposals[:, :, 0] * 0 + 1
        # Which image each is of, without asking how many there are.
        images = (ones[:, :1].cumsum(0) * ones - 1).flatten().to(torch.int64)
        boxes = proposals.reshape(-1, 4)
        maps = [features[name] for name in features if name in self.names]
        pooled: list[Tensor] = [
            torch.ops.subbyte.roi_align(x, boxes, images, scale, *self.size, self.samples)
            for x, scale in zip(maps, self.scales, strict=True)
        ]
        if len(pooled) == 1:
            return pooled[0]
        level = self.map_levels([boxes]).view(-1, 1, 1, 1)
        chosen = [x * (level == i).to(x.dtype) for i, x in enumerate(pooled)]
        return torch.stack(chosen).sum(0)


class FasterRcnnBoxes(nn.Module):
    """From what the box predictor gives to detections."""

    def __init__(self, heads: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.coder = size, heads.box_coder
        self.floor, self.iou = float(heads.score_thresh), float(heads.nms_thresh)
        self.detections = heads.detections_per_img

    def forward(
        self, proposals: Tensor, present: Tensor, logits: Tensor, regression: Tensor
    ) -> Detections:
        """Boxes [N, K, 4] in the resized image, scores [N, K], labels [N, K], count [N].

        Args:
            proposals: [N, P, 4], in the resized image.
            present: [N, P], 0 where there is no proposal.
            logits: [N · P, labels].
            regression: [N · P, 4 · labels].
        """
        count, classes = proposals.shape[1], logits.shape[1]
        scores = logits.softmax(-1).reshape(-1, count, classes)[..., 1:].transpose(1, 2)
        boxes = self.coder.decode(regression, [proposals.reshape(-1, 4)])
        boxes = clipped(boxes.reshape(-1, count, classes, 4)[:, :, 1:], self.size).transpose(1, 2)
        wanted = _large(boxes, 1e-2) & (present > 0).unsqueeze(1)
        scores = scores * wanted.to(scores.dtype)  # N, C - 1, P
        kept = nms_scores(
            boxes.reshape(-1, count, 4),
            scores.reshape(-1, 1, count),
            self.iou,
            self.floor,
            min(self.detections, count),
        ).reshape(-1, (classes - 1) * count)
        labels = torch.arange(1, classes, device=kept.device).repeat_interleave(count)
        return best_of(boxes.flatten(1, 2), kept, labels, self.detections)


def _large(boxes: Tensor, smallest: float) -> Tensor:
    """Whether both sides of boxes [..., 4] are at least so long."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width >= smallest) & (height >= smallest)


@torch.no_grad()
def _deployment(
    model: Any, captured: Regional, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    if not postprocess:
        return chained(model, captured, args)
    images = images_of(args)
    preprocessing = preprocessing_of(model.transform, size_of(images)).to(images.device)
    anchors, lengths = anchors_of(model, model.rpn.anchor_generator, preprocessing)
    pool = model.roi_heads.box_roi_pool
    if pool.scales is None or pool.map_levels is None:
        model(list(images[:1]))
    module = evaluating(TwoStages(model, preprocessing, anchors, lengths))
    return Deployment(module, (images,), OUTPUTS)


def _label_count(model: Any) -> int | None:
    scoring = getattr(model.roi_heads.box_predictor, "cls_score", None)
    if type(scoring) is nn.Linear:
        return scoring.out_features
    return labels_scored(model, "roi_heads.box_predictor", 0)


FAMILY = Family(
    matches=lambda model: isinstance(model, FasterRCNN),
    regions=lambda _: REGIONS,
    deployment=_deployment,
    label_count=_label_count,
    operators={torch.ops.subbyte.roi_align.default: _onnx_roi_align},
)
