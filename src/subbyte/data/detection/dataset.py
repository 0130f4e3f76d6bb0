"""Images with their objects as a detector takes them, one by one and in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from subbyte.data.dataset import ImageArrays, ImageFiles, InOrder
from subbyte.data.decoded import Decoded
from subbyte.data.detection.listing import Listing, Objects
from subbyte.data.preprocessing import Preprocessing

# Detectors resize and normalize by themselves: RGB in [0, 1], as large as it is.
PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

Target = dict[str, Any]
DetectionItem = tuple[torch.Tensor, Target]


@dataclass(frozen=True)
class DetectionDataset(Dataset[DetectionItem]):
    """Images and what is on them, decoded when they are asked for.

    Item i: the image, float32 [3, H, W] in [0, 1], and a dictionary with `boxes` (float32 [n, 4],
    x0, y0, x1, y1 in pixels), `labels` (int64 [n], from 1), `image_id` (int), `area` (float32 [n])
    and `iscrowd` (int64 [n]).

    Attributes:
        images: The images.
        objects: What is on each, as arrays.
        classes: The names, that of label 1 first.
    """

    images: ImageFiles | ImageArrays
    objects: Sequence[Objects]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DetectionItem:
        """Decode image `index`; raises `SubbyteError` if its file is broken."""
        image, _ = self.images[index]
        return image, self.objects[index].target()

    def at_hand(self, index: int) -> bool:
        """Whether image `index` is in memory."""
        return self.images.at_hand(index)

    def take(self, indices: Sequence[int]) -> DetectionDataset:
        """The images at `indices`, in that order, and what is on them."""
        objects = [self.objects[i] for i in indices]
        return replace(self, images=self.images.take(indices), objects=objects)

    def relabelled(self, labels: Mapping[int, int], classes: Sequence[str]) -> DetectionDataset:
        """The same with other labels (`labels`: those here → those wanted) and class names."""
        objects = tuple(found.relabelled(labels) for found in self.objects)
        return replace(self, objects=objects, classes=tuple(classes))

    def to_learn_from(self) -> DetectionDataset:
        """The same without crowds and difficult objects, as detectors are trained."""
        kept = tuple(found.only(~(found.iscrowd | found.difficult)) for found in self.objects)
        return replace(self, objects=kept)

    def name(self, index: int) -> str:
        """What to call image `index` in a message: its path, or its number."""
        return self.images.name(index)


@dataclass(frozen=True)
class DetectionBatches(InOrder):
    """Batches of images in order; can be walked any number of times, one batch in memory.

    Each batch is a mapping with "inputs", a list of images of any sizes, and, if `labelled`,
    "targets", a list of one dictionary for each; see `DetectionDataset`. Raises `SubbyteError` if
    `batch_size` or `limit` is below 1 and, while walked, if a file is broken.

    Attributes:
        dataset: The images, and what is on them.
        labelled: Whether batches have targets.
    """

    dataset: DetectionDataset
    labelled: bool = True

    @property
    def objects(self) -> Sequence[Objects]:
        """What is on the images of all batches, in their order: the ground truth of just these."""
        return self.dataset.objects[: self.images]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Decode and yield one batch after the other."""
        for _, items in self.decoded(self.dataset.__getitem__):
            batch: dict[str, Any] = {"inputs": [image for image, _ in items]}
            if self.labelled:
                batch["targets"] = [target for _, target in items]
            yield batch


def of_listing(listing: Listing, decoded: Decoded | None = None) -> DetectionDataset:
    """The data set of a listing's files.

    Args:
        listing: The images, and what is on them.
        decoded: Where pixels are kept that were decoded; `None`: every use decodes again.
    """
    files = ImageFiles(listing.paths, None, PLAIN, decoded)
    return DetectionDataset(files, listing.objects, listing.classes)


def of_arrays(
    images: np.ndarray, objects: Sequence[Objects], classes: Sequence[str]
) -> DetectionDataset:
    """The data set of images in memory.

    Args:
        images: uint8 [N, H, W, 3].
        objects: What is on each image.
        classes: Their names, that of label 1 first.
    """
    return DetectionDataset(ImageArrays(images, None, PLAIN), tuple(objects), tuple(classes))
