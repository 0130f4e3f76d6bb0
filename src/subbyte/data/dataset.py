"""Images as model inputs, one by one and in batches, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from subbyte.data.images import THREADS, ImageFacts, large_allowed, opened
from subbyte.data.preprocessing import Preprocessing, output_size
from subbyte.data.transform import transform
from subbyte.errors import SubbyteError

Item = tuple[Tensor, int | None]


class Indexed(Protocol):
    """What has items by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Images(Indexed, Protocol):
    """What `Batches` needs of its images: their number, each with its label, and its name."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def labelled(self, labels: Sequence[int]) -> Images:
        """The same images with other labels."""
        ...


@dataclass(frozen=True)
class ImageFiles(Dataset[Item]):
    """Image files. Item i: a float32 tensor [C, H, W], and a label or `None`."""

    paths: Sequence[Path]
    labels: Sequence[int] | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        """Decode image `index`; raises `SubbyteError` if its file is broken."""
        tensor = _read(self.paths[index], self.preprocessing)
        return tensor, None if self.labels is None else self.labels[index]

    def name(self, index: int) -> str:
        """The path of image `index`."""
        return str(self.paths[index])

    def labelled(self, labels: Sequence[int]) -> ImageFiles:
        """The same files with other labels."""
        return replace(self, labels=labels)


@dataclass(frozen=True)
class ImageArrays(Dataset[Item]):
    """Images in memory (uint8 [N, H, W] or [N, H, W, 3]). Items as those of `ImageFiles`."""

    images: np.ndarray
    labels: Sequence[int] | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Prepare image `index`."""
        image = Image.fromarray(self.images[index])
        tensor = _prepare(image, self.name(index), self.preprocessing)
        return tensor, None if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """The number of image `index`."""
        return f"image {index}"

    def labelled(self, labels: Sequence[int]) -> ImageArrays:
        """The same images with other labels."""
        return replace(self, labels=labels)


@dataclass(frozen=True)
class InOrder:
    """Images in order, so many at a time; can be walked any number of times.

    `limit`: only the first so many images. Raises `SubbyteError` if `batch_size` or `limit` is
    below 1.
    """

    dataset: Indexed
    batch_size: int
    limit: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SubbyteError(f"batch_size is {self.batch_size}: it must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise SubbyteError(f"the limit of images is {self.limit}: it must be at least 1")

    @property
    def images(self) -> int:
        """The number of images in all batches together."""
        total = len(self.dataset)
        return total if self.limit is None else min(self.limit, total)

    def __len__(self) -> int:
        return -(-self.images // self.batch_size)

    def decoded(self) -> Iterator[tuple[range, list[Any]]]:
        """The numbers of each batch's images, and the images, decoded one batch after the other."""
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, self.images, self.batch_size):
                indices = range(start, min(start + self.batch_size, self.images))
                with large_allowed():
                    items = list(pool.map(self.dataset.__getitem__, indices))
                yield indices, items


@dataclass(frozen=True)
class Batches(InOrder):
    """Batches of images in order; can be walked any number of times, one batch in memory.

    Each batch is a mapping with "inputs" (float32 [B, C, H, W]) and, if labels are known,
    "targets" (int64 [B]). `limit`: only the first so many images; `notes`: what the reader of
    figures must know of them. Raises `SubbyteError` if `batch_size` or `limit` is below 1 and,
    while walked, if a file is broken or images of different sizes come together.
    """

    dataset: Images

    def labelled(self, labels: Sequence[int]) -> Batches:
        """The same batches with a label for each image of the data set."""
        return replace(self, dataset=self.dataset.labelled(labels))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Decode and yield one batch after the other."""
        for indices, items in self.decoded():
            yield _collate(items, [self.dataset.name(i) for i in indices])


def read_image_tensor(path: Path, preprocessing: Preprocessing) -> Tensor:
    """The image in `path` as a model input: float32 [1, C, H, W].

    Raises `SubbyteError` if the file is missing, broken, or no image.
    """
    with large_allowed():
        return _read(path, preprocessing).unsqueeze(0)


def check_sizes(
    paths: Sequence[Path],
    facts: Mapping[Path, ImageFacts],
    preprocessing: Preprocessing,
    batch_size: int,
) -> None:
    """Raise `SubbyteError` if images of different sizes would come together in a batch."""
    if preprocessing.crop is not None or isinstance(preprocessing.resize, tuple) or batch_size == 1:
        return
    for i, path in enumerate(paths):
        size = output_size(facts[path].size, preprocessing)
        if i % batch_size == 0:
            first, first_size = path, size
        elif size != first_size:
            raise _mixed_sizes(str(first), first_size, str(path), size)


def _read(path: Path, preprocessing: Preprocessing) -> Tensor:
    """Decode and prepare an image, holding no more of it than needed."""
    resize = preprocessing.resize
    # Twice the size that is wanted: resizing then still averages over several pixels.
    enough = None if resize is None else 2 * (resize if isinstance(resize, int) else max(resize))
    with opened(path, enough) as image:
        return _prepare(image, str(path), preprocessing)


def _prepare(image: Image.Image, name: str, preprocessing: Preprocessing) -> Tensor:
    try:
        return transform(preprocessing)(image)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(f"{name} cannot be prepared as a model's input ({reason})") from error


def _collate(items: Sequence[Item], names: Sequence[str]) -> dict[str, Tensor]:
    tensors = [tensor for tensor, _ in items]
    first = tensors[0]
    for tensor, name in zip(tensors, names, strict=True):
        if tensor.shape != first.shape:
            sizes = [(t.shape[-2], t.shape[-1]) for t in (first, tensor)]
            raise _mixed_sizes(names[0], sizes[0], name, sizes[1])
    batch = {"inputs": torch.stack(tensors)}
    labels = [label for _, label in items if label is not None]
    if len(labels) == len(items):
        batch["targets"] = torch.tensor(labels, dtype=torch.int64)
    return batch


def _mixed_sizes(
    name: str, size: tuple[int, int], other: str, other_size: tuple[int, int]
) -> SubbyteError:
    return SubbyteError(
        f"{name} is {size[1]} pixels wide and {size[0]} high, {other} is {other_size[1]} wide and "
        f"{other_size[0]} high, and a batch needs one size: "
        "give data.preprocessing.resize and data.preprocessing.crop"
    )
