"""An SSD as a detector: images in, objects out, called as torchvision's detectors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subbyte.errors import SubbyteError
from subbyte.models.ssd.boxes import to_corners
from subbyte.models.ssd.loss import multibox
from subbyte.models.ssd.network import Network
from subbyte.models.ssd.postprocess import detections
from subbyte.models.ssd.settings import Settings
from subbyte.postprocessing import Anchored

ImageDetections = list[dict[str, Tensor]]


class SSD(nn.Module):
    """A single-shot detector (Liu et al. 2016).

    `network` is what learns, tensors in and tensors out; `settings` are for what happens around it.
    `beta`: of the loss of boxes, see `multibox`.
    """

    subbyte_regions = ("network",)

    def __init__(self, network: Network, defaults: Tensor, settings: Settings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.num_classes = network.num_classes
        self.beta = 1.0
        self.register_buffer("_defaults", defaults, persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> ImageDetections | dict[str, Tensor]:
        """Detections of images [3, H, W] in [0, 1]; in training mode the losses.

        Detections of each image: `boxes` (x1, y1, x2, y2 in the image's own pixels), `scores` and
        `labels` (int64; 0 is the background and never comes), highest scores first. In training
        mode `targets` have `boxes` and `labels` of each image in the same form, and what comes out
        is `bbox_regression` and `classification`, scalars.

        Raises:
            SubbyteError: an image or a target is not like that.
        """
        images = list(images)
        batch = self.preprocess(images)
        if self.training:
            return self.losses(self.raw(batch), self._relative(images, targets))
        raw = self.raw(batch)
        rows = zip(raw["bbox_regression"], raw["cls_logits"], images, strict=True)
        return [
            detections(boxes, logits, self.default_boxes(), _size(image), self.settings)
            for boxes, logits, image in rows
        ]

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """Images [3, H, W] in [0, 1] as the normalized batch [N, 3, size, size]."""
        if not images:
            raise SubbyteError("no image was given: give a list of at least one tensor [3, H, W]")
        for image in images:
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise SubbyteError(
                    f"an image is {image.dtype} of shape {list(image.shape)}: give float tensors "
                    "[3, H, W] with values from 0 to 1"
                )
        side = (self.settings.size, self.settings.size)
        resized = [
            image.unsqueeze(0)
            if _size(image) == side
            else F.interpolate(
                image.unsqueeze(0),
                side,
                mode="bilinear",
                align_corners=False,
                antialias=self.settings.antialias,
            )
            for image in images
        ]
        return self.normalize(torch.cat(resized))

    def normalize(self, batch: Tensor) -> Tensor:
        """Values of [0, 1] as the network reads them; [N, 3, H, W]."""
        mean = batch.new_tensor(self.settings.mean).view(1, 3, 1, 1)
        std = batch.new_tensor(self.settings.std).view(1, 3, 1, 1)
        return (batch - mean) / std

    def raw(self, batch: Tensor) -> dict[str, Tensor]:
        """What the network gives for a normalized batch [N, 3, size, size].

        `bbox_regression` [N, A, 4] and `cls_logits` [N, A, C], in the order of `default_boxes`.

        Raises:
            SubbyteError: the batch is of another height or width.
        """
        if _size(batch) != (self.settings.size, self.settings.size):
            raise SubbyteError(
                f"the batch has the shape {list(batch.shape)}: this model takes "
                f"[N, 3, {self.settings.size}, {self.settings.size}]"
            )
        boxes, logits = self.network(batch)
        return {"bbox_regression": boxes, "cls_logits": logits}

    def default_boxes(self) -> Tensor:
        """The default boxes, [A, 4], in the centre form (cx, cy, w, h), relative to the image."""
        defaults: Tensor = self.get_buffer("_defaults")
        return defaults

    @property
    def subbyte_postprocessing(self) -> Anchored:
        """What a deployment must know of what happens around the network."""
        settings = self.settings
        return Anchored(
            settings.mean,
            settings.std,
            (settings.size, settings.size),
            self.default_boxes(),
            settings.score_threshold,
            settings.nms_iou,
            settings.candidates,
            settings.detections,
            settings.variances,
            antialias=settings.antialias,
        )

    def losses(
        self, raw: Mapping[str, Tensor], targets: Sequence[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """The MultiBox losses of `raw` outputs for relative boxes [G, 4] and labels [G]."""
        defaults = self.default_boxes()
        return multibox(
            raw["bbox_regression"],
            raw["cls_logits"],
            targets,
            (defaults, to_corners(defaults)),
            self.settings.variances,
            self.beta,
        )

    def _relative(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None
    ) -> list[tuple[Tensor, Tensor]]:
        if targets is None or len(targets) != len(images):
            count = "no" if targets is None else str(len(targets))
            raise SubbyteError(
                f"{count} targets came with {len(images)} images: in training mode give one "
                "dict of boxes and labels for each"
            )
        rows = zip(images, targets, strict=True)
        return [self._relative_one(image, target) for image, target in rows]

    def _relative_one(self, image: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        boxes, labels = target["boxes"].reshape(-1, 4), target["labels"].reshape(-1)
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1) | ~boxes.isfinite().all(dim=1)
        if flat.any():
            box = [round(value, 2) for value in boxes[flat][0].tolist()]
            raise SubbyteError(
                f"the box {box} has no area: give x1, y1, x2, y2 with x2 > x1, y2 > y1"
            )
        wrong = (labels < 1) | (labels >= self.num_classes)
        if len(labels) != len(boxes) or wrong.any():
            what = f"label {int(labels[wrong][0])}" if wrong.any() else f"{len(labels)} labels"
            raise SubbyteError(
                f"{what} for {len(boxes)} boxes: each box needs a label from 1 to "
                f"{self.num_classes - 1}, as the model has {self.num_classes} classes with the "
                "background"
            )
        height, width = _size(image)
        return boxes / boxes.new_tensor([width, height, width, height]), labels


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
