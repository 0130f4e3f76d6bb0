"""Images as model inputs, one by one and in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from subbyte.data.decoded import Decoded, prepared
from subbyte.data.images import THREADS, ImageInfo, large_allowed
from subbyte.data.preprocessing import Preprocessing, output_size
from subbyte.data.transform import normalized
from subbyte.errors import SubbyteError

Item = tuple[Tensor, int | None]
T = TypeVar("T")


class Indexed(Protocol):
    """What has items by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def at_hand(self, index: int) -> bool:
        """Whether item `index` is in memory, so that nothing needs decoding."""
        ...

    def take(self, indices: Sequence[int]) -> Any:
        """The items at `indices` alone, in that order."""
        ...


class Images(Indexed, Protocol):
    """What `Batches` needs of its images: their number, pixels, labels and names."""

    @property
    def labels(self) -> Sequence[int] | None:
        """A label for each image, if they are known."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through."""
        ...

    def pixels(self, index: int) -> Tensor:
        """Image `index` resized and cropped, uint8 [C, H, W]."""
        ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def labelled(self, labels: Sequence[int]) -> Images:
        """The same images with other labels."""
        ...


@dataclass(frozen=True)
class ImageFiles(Dataset[Item]):
    """Image files. Item i: a float32 tensor [C, H, W], and a label or `None`.

    Attributes:
        paths: The files.
        labels: A label for each, if they are known.
        preprocessing: What images go through.
        decoded: Where pixels are kept that were decoded; `None`: every use decodes again.
    """

    paths: Sequence[Path]
    labels: Sequence[int] | None
    preprocessing: Preprocessing
    decoded: Decoded | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        """Decode image `index`; raises `SubbyteError` if its file is broken."""
        return _item(self, index)

    def at_hand(self, index: int) -> bool:
        """Whether image `index` is kept."""
        return self.decoded is not None and self.paths[index] in self.decoded

    def pixels(self, index: int) -> Tensor:
        """Image `index`, uint8 [C, H, W]; raises `SubbyteError` if its file is broken."""
        decoded = self.decoded if self.decoded is not None else Decoded(self.preprocessing, 0)
        return decoded.pixels(self.paths[index])

    def name(self, index: int) -> str:
        """The path of image `index`."""
        return str(self.paths[index])

    def labelled(self, labels: Sequence[int]) -> ImageFiles:
        """The same files with other labels."""
        return replace(self, labels=labels)

    def take(self, indices: Sequence[int]) -> ImageFiles:
        """The files at `indices`, in that order."""
        paths = [self.paths[i] for i in indices]
        return replace(self, paths=paths, labels=_taken(self.labels, indices))


@dataclass(frozen=True)
class ImageArrays(Dataset[Item]):
    """Images in memory. Items as those of `ImageFiles`.

    Attributes:
        images: uint8 [N, H, W] or [N, H, W, 3].
        labels: A label for each, if they are known.
        preprocessing: What images go through.
    """

    images: np.ndarray
    labels: Sequence[int] | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Prepare image `index`."""
        return _item(self, index)

    def at_hand(self, index: int) -> bool:
        """All are."""
        return 0 <= index < len(self)

    def pixels(self, index: int) -> Tensor:
        """Image `index`, uint8 [C, H, W]."""
        image = self.images[index]
        how = self.preprocessing
        if how.resize is how.crop is None and how.channels == (3 if image.ndim == 3 else 1):
            return torch.from_numpy(image).reshape(*image.shape[:2], -1).permute(2, 0, 1)
        return prepared(Image.fromarray(image), self.name(index), how)

    def name(self, index: int) -> str:
        """The number of image `index`."""
        return f"image {index}"

    def labelled(self, labels: Sequence[int]) -> ImageArrays:
        """The same images with other labels."""
        return replace(self, labels=labels)

    def take(self, indices: Sequence[int]) -> ImageArrays:
        """The images at `indices`, in that order."""
        images = self.images[np.asarray(indices, np.int64)]
        return replace(self, images=images, labels=_taken(self.labels, indices))


@dataclass(frozen=True)
class InOrder:
    """Images in order, so many at a time; can be walked any number of times.

    Raises `SubbyteError` if `batch_size` or `limit` is below 1.

    Attributes:
        dataset: The images.
        batch_size: Images a batch, at least 1.
        limit: Only the first so many images; `None`: all.
        notes: What the reader of figures must know of the images.
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

    def take(self, indices: Sequence[int]) -> Self:
        """Batches of the images at `indices` alone, in that order."""
        return replace(self, dataset=self.dataset.take(indices), limit=None)

    def decoded(self, read: Callable[[int], T]) -> Iterator[tuple[range, list[T]]]:
        """The numbers of each batch's images, and what `read` gives for each of them.

        Images that need decoding are read by several threads.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, self.images, self.batch_size):
                indices = range(start, min(start + self.batch_size, self.images))
                if all(map(self.dataset.at_hand, indices)):
                    items = list(map(read, indices))
                else:
                    with large_allowed():
                        items = list(pool.map(read, indices))
                yield indices, items


@dataclass(frozen=True)
class Batches(InOrder):
    """Batches of images in order; can be walked any number of times, one batch in memory.

    Each batch is a mapping with "inputs" (float32 [B, C, H, W]) and, if labels are known, "targets"
    (int64 [B]). Raises `SubbyteError` if `batch_size` or `limit` is below 1 and, while walked, if a
    file is broken or images of different sizes come together.
    """

    dataset: Images

    def labelled(self, labels: Sequence[int]) -> Batches:
        """The same batches with a label for each image of the data set."""
        return replace(self, dataset=self.dataset.labelled(labels))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Decode and yield one batch after the other."""
        for indices, pixels in self.decoded(self.dataset.pixels):
            _check_equal(pixels, [self.dataset.name(i) for i in indices])
            batch = {"inputs": normalized(torch.stack(pixels), self.dataset.preprocessing)}
            if self.dataset.labels is not None:
                labels = [int(self.dataset.labels[i]) for i in indices]
                batch["targets"] = torch.tensor(labels, dtype=torch.int64)
            yield batch


def read_image_tensor(path: Path, preprocessing: Preprocessing) -> Tensor:
    """The image in `path` as a model input: float32 [1, C, H, W].

    Raises `SubbyteError` if the file is missing, broken, or not an image.
    """
    with large_allowed():
        return ImageFiles([path], None, preprocessing)[0][0].unsqueeze(0)


def check_sizes(
    paths: Sequence[Path],
    infos: Mapping[Path, ImageInfo],
    preprocessing: Preprocessing,
    batch_size: int,
) -> None:
    """Raise `SubbyteError` if images of different sizes would come together in a batch.

    Args:
        paths: The image files, in the order of the batches.
        infos: Path → what is known of the file.
        preprocessing: What images go through.
        batch_size: Images a batch.
    """
    if preprocessing.crop is not None or isinstance(preprocessing.resize, tuple) or batch_size == 1:
        return
    for i, path in enumerate(paths):
        size = output_size(infos[path].size, preprocessing)
        if i % batch_size == 0:
            first, first_size = path, size
        elif size != first_size:
            raise _mixed_sizes(str(first), first_size, str(path), size)


def _item(images: Images, index: int) -> Item:
    labels = images.labels
    tensor = normalized(images.pixels(index), images.preprocessing)
    return tensor, None if labels is None else int(labels[index])


def _taken(labels: Sequence[int] | None, indices: Sequence[int]) -> Sequence[int] | None:
    return None if labels is None else [labels[i] for i in indices]


def _check_equal(images: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raise `SubbyteError` if images of a batch are not of one size."""
    first = images[0]
    for image, name in zip(images, names, strict=True):
        if image.shape != first.shape:
            sizes = [(x.shape[-2], x.shape[-1]) for x in (first, image)]
            raise _mixed_sizes(names[0], sizes[0], name, sizes[1])


def _mixed_sizes(
    name: str, size: tuple[int, int], other: str, other_size: tuple[int, int]
) -> SubbyteError:
    return SubbyteError(
        f"{name} is {size[1]} pixels wide and {size[0]} high, {other} is {other_size[1]} wide and "
        f"{other_size[0]} high, and a batch needs one size: "
        "give data.preprocessing.resize and data.preprocessing.crop (on the command "
        "line: --preprocessing '{resize: 256, crop: 224}')"
    )
