"""Faster R-CNN: proposals, what is pooled of the feature maps for each, and their boxes."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from onnxscript import opset21 as op
from torch import Tensor, nn

from subbyte.detectors.nms import Detections, best_of, clipped, nms_scores, rows
from subbyte.detectors.preprocessing import Frame


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


TRANSLATIONS = {torch.ops.subbyte.roi_align.default: _onnx_roi_align}


class TwoStages(nn.Module):
    """torchvision's Faster R-CNN from images [N, 3, H, W] of one size to detections.

    anchors: [A, 4], those of the levels one after the other; lengths: how many each level has.
    pool: the detector's own, after it has run on images of that size.
    """

    def __init__(self, model: Any, frame: Frame, anchors: Tensor, lengths: list[int]) -> None:
        super().__init__()
        self.frame, self.lengths = frame, lengths
        self.backbone, self.head = model.backbone, model.rpn.head
        self.box_head, self.predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
        self.rpn = Proposing(model.rpn, frame.resized)
        self.boxes = Boxes(model.roi_heads, frame.resized)
        self.pool = Pooling(model.roi_heads.box_roi_pool)
        self.register_buffer("anchors", anchors)

    def forward(self, images: Tensor) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        features = self.backbone(self.frame(images))
        features = {"0": features} if isinstance(features, Tensor) else features
        objectness, deltas = self.head(list(features.values()))
        anchors = torch.split(self.get_buffer("anchors"), self.lengths)
        proposals, scores = self.rpn(objectness, deltas, anchors)
        logits, regression = self.predictor(self.box_head(self.pool(features, proposals)))
        boxes, *rest = self.boxes(proposals, scores, logits, regression)
        return self.frame.in_pixels(boxes), *rest


class Proposing(nn.Module):
    """The proposals of a region proposal network."""

    def __init__(self, rpn: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.coder = size, rpn.box_coder
        self.candidates, self.count = rpn.pre_nms_top_n(), rpn.post_nms_top_n()
        self.iou, self.floor, self.smallest = rpn.nms_thresh, rpn.score_thresh, rpn.min_size

    def forward(
        self, objectness: list[Tensor], deltas: list[Tensor], anchors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Proposals [N, P, 4] in the resized image, and scores [N, P]: 0 where there is none."""
        levels = [self._level(*part) for part in zip(objectness, deltas, anchors, strict=True)]
        boxes = torch.cat([level[0] for level in levels], 1)
        alone = [
            torch.cat([x if i == k else x * 0 for k, (_, x) in enumerate(levels)], 1)
            for i in range(len(levels))
        ]
        scores = torch.stack(alone, 1)  # N, levels, M
        kept = nms_scores(boxes, scores, self.iou, 0.0, self.count).sum(1)
        best, places = kept.topk(min(self.count, kept.shape[1]), 1)
        return rows(boxes, places), best

    def _level(self, objectness: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
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


class Pooling(nn.Module):
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


class Boxes(nn.Module):
    """From what the box predictor gives to detections."""

    def __init__(self, heads: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.coder = size, heads.box_coder
        self.floor, self.iou = float(heads.score_thresh), float(heads.nms_thresh)
        self.detections = heads.detections_per_img

    def forward(
        self, proposals: Tensor, present: Tensor, logits: Tensor, regression: Tensor
    ) -> Detections:
        """Boxes [N, K, 4] in the resized image, scores [N, K], labels [N, K], count [N]."""
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
