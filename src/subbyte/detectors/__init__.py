"""Detectors: one file a family; `base.Family` is what such a file holds."""

from __future__ import annotations

from typing import Any

from torch import nn

from subbyte.detectors.base import OneSize, TrainingLoss, family_of
from subbyte.detectors.letterbox import Letterbox, Sizes
from subbyte.graph.float_model import Regional
from subbyte.graph.output_loss import OutputLoss

REGIONS = "subbyte_regions"  # the attribute by which a model names its own regions


def regions_of(model: nn.Module) -> tuple[str, ...] | None:
    """The regions that a model names itself, or those that its family has; `None`: unknown."""
    own = getattr(model, REGIONS, None)
    return family_of(model).regions(model) if own is None else tuple(own)


def label_count(model: nn.Module) -> int | None:
    """How many labels a detector has, the background among them; `None`: unknown."""
    return family_of(model).label_count(model)


def is_whole(model: nn.Module) -> bool:
    """Whether files of a detector can go from images to boxes."""
    return family_of(model).whole


def try_out(model: nn.Module, images: Any) -> None:
    """Look at what a model gives for a first batch of images.

    Raises:
        SubbyteError: That cannot be right.
    """
    family_of(model).tried(model, images)


def letterbox_for(model: nn.Module, sizes: Sizes) -> Letterbox:
    """How a detector's file takes images of these sizes (height, width).

    Images of one size stay as they are, unless the model says what they become. Others are resized
    as the model's family does.
    """
    distinct = set(sizes)
    letterbox = own_letterbox(model, distinct)
    if len(distinct) == 1 and not letterbox.by_model:
        return Letterbox(next(iter(distinct)))
    return letterbox


def own_letterbox(model: nn.Module, sizes: Sizes) -> Letterbox:
    """How a detector's family brings images of these sizes (height, width) to one."""
    return family_of(model).letterbox(model, set(sizes))


def output_loss(model: nn.Module, regions: tuple[str, ...]) -> OutputLoss | None:
    """What an error in the raw outputs of a detector's regions costs; `None`: nothing is known.

    Args:
        model: The detector.
        regions: Those that are captured.
    """
    family = family_of(model)
    return family.output_loss(model) if regions == family.regions(model) else None


def one_size(model: nn.Module) -> OneSize | None:
    """What brings a batch's images to the one size that a detector itself brings them to.

    Nothing changes for the detector, and images of one size can be tuned on.
    """
    return family_of(model).one_size(model)


def training_loss(captured: Regional, original: nn.Module) -> TrainingLoss | None:
    """The sum of the losses that a detector returns in training mode, of its raw outputs.

    Args:
        captured: The captured model.
        original: The model that was captured; its heads may compute losses themselves.

    Returns:
        A function of what `captured.raw` gives for a batch and of the batch's targets: a
        dictionary for each image, of `boxes`, `labels` and the image's `size` (height, width), and
        perhaps `iscrowd`. It raises `SubbyteError` if the targets do not fit. `None` for a model
        without a known loss.
    """
    return family_of(original).training_loss(captured, original)
