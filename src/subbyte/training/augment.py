"""Images and objects as an SSD is trained on them: distorted, zoomed, cropped, flipped, resized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from subbyte.models.ssd import Settings

TrainingSample = tuple[Tensor, dict[str, Tensor]]


class TrainingImages(Sized, Protocol):
    """Images with objects: [3, H, W], uint8 or float in [0, 1], and a target for each.

    A target has `boxes` (x1, y1, x2, y2 in pixels, [G, 4]), `labels` (int64 [G], from 1) and
    maybe `iscrowd` ([G]); `classes` are the names of labels 1, 2 and so on.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Names, that of label 1 first."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Any]:
        """Image `index` and its target."""
        ...


def augmentation(
    settings: Settings, *, distort: bool, zoom_out: float, crop: bool, flip: bool
) -> v2.Compose:
    """Liu et al. 2016, "SSD", section 2.2, by torchvision's transforms; float images in [0, 1].

    Args:
        settings: The SSD's: its mean fills, and its size is that to which images are resized.
        distort: Change brightness, contrast, saturation, hue and the order of channels.
        zoom_out: Place images in a larger one, filled with the mean; the largest factor.
        crop: Cut so that some object is kept.
        flip: Left and right.
    """
    steps: list[torch.nn.Module] = []
    if distort:
        steps.append(v2.RandomPhotometricDistort())
    if zoom_out > 1:
        steps.append(v2.RandomZoomOut(list(settings.mean), (1.0, zoom_out)))
    if crop:
        steps.append(v2.RandomIoUCrop())
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    steps += [
        v2.Resize([settings.size, settings.size], antialias=settings.antialias),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(min_size=1),
    ]
    return v2.Compose(steps)


@dataclass(frozen=True)
class Augmented(Dataset[TrainingSample]):
    """What an image becomes in an epoch: item (epoch, index), whatever was asked for before.

    All random numbers follow from `seed`, epoch and index, and the caller's are not touched.

    Attributes:
        images: What is trained on.
        transform: The augmentation.
        seed: Of the training.
    """

    images: TrainingImages
    transform: v2.Compose
    seed: int

    def __getitem__(self, place: tuple[int, int]) -> TrainingSample:
        """The image, float32 [3, size, size] in [0, 1], with `boxes` and `labels`."""
        epoch, index = place
        image, boxes, labels = read(self.images, index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number(self.seed, "image", epoch, index))
            image, target = self.transform(
                tv_tensors.Image(image),
                {
                    "boxes": tv_tensors.BoundingBoxes(
                        boxes, format="XYXY", canvas_size=image.shape[-2:]
                    ),
                    "labels": labels,
                },
            )
        return image.as_subclass(Tensor), {
            key: value.as_subclass(Tensor) for key, value in target.items()
        }


def read(images: TrainingImages, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image `index` in float32 and [0, 1], boxes [G, 4] and labels [G]; crowds are left out."""
    image, target = images[index]
    image = v2.functional.to_dtype(image, torch.float32, scale=True)
    boxes = target["boxes"].reshape(-1, 4).to(torch.float32)
    labels = target["labels"].reshape(-1)
    if "iscrowd" in target:
        single = target["iscrowd"].reshape(-1) == 0
        boxes, labels = boxes[single], labels[single]
    return image, boxes, labels


@dataclass(frozen=True)
class EpochBatches:
    """Which images each step from `start` on reads, as lists of (epoch, index).

    Every epoch is in an order of its own; what does not fill a batch is left out of it. Of each
    batch every `ranks`th, from the `rank`th on.
    """

    images: int
    size: int
    epochs: int
    seed: int
    start: int = 0
    rank: int = 0
    ranks: int = 1

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch, at least 1."""
        return max(self.images // self.size, 1)

    @property
    def steps(self) -> int:
        """Steps in all epochs."""
        return self.epochs * self.per_epoch

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches."""
        first = self.start // self.per_epoch
        for epoch in range(first, self.epochs):
            generator = torch.Generator().manual_seed(number(self.seed, "order", epoch))
            order = torch.randperm(self.images, generator=generator).tolist()
            skipped = self.start - epoch * self.per_epoch if epoch == first else 0
            for batch in range(skipped, self.per_epoch):
                indices = order[batch * self.size :][: self.size]
                yield [(epoch, index) for index in indices[self.rank :: self.ranks]]


def number(*parts: object) -> int:
    """A seed that is another for other parts, and the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
