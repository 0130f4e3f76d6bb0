"""From images to what a detector's raw network reads, as `detection.Preprocessing` says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subbyte.data.preprocessing import as_pair
from subbyte.detection import Preprocessing
from subbyte.detectors.letterbox import HeightWidth, Letterbox, Sizes
from subbyte.errors import SubbyteError


def letterbox_of(preprocessing: Preprocessing, sizes: Sizes) -> Letterbox:
    """How images of these sizes become the network's one.

    Raises:
        SubbyteError: They are of several sizes, and nothing says what they become.
    """
    antialias = preprocessing.antialias
    if preprocessing.letterbox is not None:
        fill = tuple(value / 255 for value in preprocessing.fills)
        return Letterbox(
            as_pair(preprocessing.letterbox),
            "pad",
            antialias,
            fill[::-1] if preprocessing.colours == "bgr" else fill,
            preprocessing.place,
            by_model=True,
        )
    if preprocessing.resize is not None:
        return Letterbox(as_pair(preprocessing.resize), antialias=antialias, by_model=True)
    distinct = sorted(set(sizes))
    if len(distinct) > 1:
        shown = ", ".join(f"{height} × {width}" for height, width in distinct[:3])
        raise SubbyteError(
            f"images are of {len(distinct)} sizes ({shown}, …), and the network reads one: give "
            "preprocessing letterbox: SIDE, which keeps the ratio of the sides, or resize: "
            "[HEIGHT, WIDTH], which stretches"
        )
    return Letterbox(distinct[0], by_model=True)


class Normalization(nn.Module):
    """RGB in [0, 1] as the network reads it: order of the channels, range, mean and std."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.bgr, self.range = preprocessing.colours == "bgr", preprocessing.range
        self.shifts = any(preprocessing.mean) or any(std != 1 for std in preprocessing.std)
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The batch for images [N, 3, H, W]."""
        if self.bgr:
            images = torch.cat([images[:, 2:], images[:, 1:2], images[:, :1]], 1)
        if self.range != 1:
            images = images * float(self.range)
        if self.shifts:
            images = (images - self.get_buffer("mean")) / self.get_buffer("std")
        return images


class FileInput(nn.Module):
    """Images [N, 3, h, w] in [0, 1] of one size as the network's batch."""

    def __init__(self, letterbox: Letterbox, normalization: Normalization) -> None:
        super().__init__()
        self.letterbox, self.normalization = letterbox, normalization

    def forward(self, images: Tensor) -> Tensor:
        """The batch [N, 3, H, W]."""
        batch: Tensor = self.normalization(self.letterbox.fitted(images))
        return batch


def is_whole(letterbox: Letterbox, size: HeightWidth) -> bool:
    """Whether an image of this size cannot have been letterboxed before."""
    return letterbox.fit == "stretch" or size != letterbox.size
