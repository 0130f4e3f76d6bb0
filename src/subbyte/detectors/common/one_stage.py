"""Detectors of one stage: images → preprocessing → network → boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.models.detection.image_list import ImageList

from subbyte.detectors.base import Deployment
from subbyte.detectors.common.copies import evaluating
from subbyte.detectors.common.nms import OUTPUTS
from subbyte.detectors.common.preprocessing import ImagePreprocessing
from subbyte.errors import SubbyteError
from subbyte.utils.arguments import could_be_images

RAW = ("bbox_regression", "cls_logits")  # names of raw outputs in torchvision's heads
REGIONS = ("backbone", "head")  # of torchvision's detectors of one stage


class ImagesToBoxes(nn.Module):
    """Images → preprocessing → network → boxes, or without `boxes` to the raw outputs."""

    def __init__(
        self, preprocessing: nn.Module, network: nn.Module, boxes: nn.Module | None
    ) -> None:
        super().__init__()
        self.preprocessing, self.network, self.boxes = preprocessing, network, boxes

    def forward(self, images: Tensor) -> Any:
        """Detections and behind these the raw outputs; or these alone."""
        outputs = self.network(self.preprocessing(images))
        if self.boxes is None:
            return outputs
        return *self.boxes(_named(outputs)), *pytree.tree_leaves(outputs)


class OneStage(nn.Module):
    """torchvision's way from the batch to the outputs of a head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, batch: Tensor) -> Any:
        """A dictionary of [N, A, …]."""
        features = self.backbone(batch)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))


@torch.no_grad()
def one_stage(
    preprocessing: nn.Module, network: nn.Module, boxes: nn.Module | None, images: Tensor
) -> Deployment:
    """What to write of a detector of one stage.

    Args:
        preprocessing: From `images` to the network's batch.
        network: Gives raw outputs: a mapping, whose keys become names of the file's outputs and
            are none of `nms.OUTPUTS`, or regressions and logits.
        boxes: From the raw outputs, by their names, to detections; `None`: the file gives the raw
            outputs.
        images: [N, 3, H, W] in [0, 1].
    """
    module = evaluating(ImagesToBoxes(preprocessing, network, boxes))
    raw = network(preprocessing(images[:1]))
    names = tuple(raw) if isinstance(raw, Mapping) else RAW
    if boxes is None:
        return Deployment(module, (images,), names)
    return Deployment(module, (images,), (*OUTPUTS, *names), raw=names)


@torch.no_grad()
def anchors_of(
    model: Any, generator: Any, preprocessing: ImagePreprocessing
) -> tuple[Tensor, list[int]]:
    """The anchors of one of torchvision's detectors for one image.

    Args:
        model: The detector; its backbone runs.
        generator: Its anchor generator.
        preprocessing: From images to the batch that the backbone reads.

    Returns:
        The anchors [A, 4] in the corner form, in pixels of the resized image, those of one feature
        map after the other; and how many each map has.
    """
    batch = preprocessing.get_buffer("mean").new_zeros(1, 3, *preprocessing.padded)
    features = model.backbone(batch)
    maps = [features] if isinstance(features, Tensor) else list(features.values())
    anchors: Tensor = generator(ImageList(batch, [preprocessing.resized]), maps)[0]
    places = [x.shape[-2] * x.shape[-1] for x in maps]
    return anchors, [n * len(anchors) // sum(places) for n in places]


def images_of(args: tuple[Any, ...]) -> Tensor:
    """The images of a batch as one tensor [N, 3, H, W].

    Raises:
        SubbyteError: They are not of one size.
    """
    batch = args[0]
    if isinstance(batch, Tensor) and batch.dim() == 4:
        return batch
    if not could_be_images(batch) or len({tuple(image.shape) for image in batch}) > 1:
        raise SubbyteError(
            "a detector is written for images of one size: give an example [N, 3, H, W], or a list "
            "of images [3, H, W] that are all of the same height and width"
        )
    return torch.stack(list(batch))


def size_of(images: Tensor) -> tuple[int, int]:
    """Height and width."""
    return images.shape[-2], images.shape[-1]


def _named(outputs: Any) -> Mapping[str, Tensor]:
    """What a network gives, by its names."""
    return outputs if isinstance(outputs, Mapping) else dict(zip(RAW, outputs, strict=True))
