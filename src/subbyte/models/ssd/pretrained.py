"""Weights to start training from: a classifier's for the backbone, or another SSD's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models.checkpoint import load_state, read_checkpoint
from subbyte.models.ssd.detector import SSD
from subbyte.models.ssd.loading import checkpoint_file, fitting, known_classes, untangled
from subbyte.models.ssd.members import MEMBERS

# Of the SSDs with VGG: weights and biases of the two layers that are not a classifier's.
NEW_IN_VGG = 4


def load_backbone(model: SSD, name: str, file: Path, key: str | None = None) -> None:
    """Put a classifier's weights (torchvision's files, say) into the backbone of an SSD.

    Tensors are taken in their order, as their names differ.

    Args:
        model: The SSD.
        name: The member's name.
        file: The classifier's weights.
        key: Under which of the file's keys they are; see `read_checkpoint`.

    Raises:
        SubbyteError: A tensor does not have the shape of its place.
    """
    read = read_checkpoint(file, key=key)
    state = {place: value for place, value in read.items() if not _count(place)}
    backbone = model.network.get_submodule(model.network.names.backbone)
    own = {key: value for key, value in backbone.state_dict().items() if not _count(key)}
    wanted = list(own.items())
    if model.network.has_norm:
        wanted = wanted[:-NEW_IN_VGG]
    given = list(state.items())
    for index, (place, value) in enumerate(wanted):
        if index < len(given) and given[index][1].shape == value.shape:
            continue
        found = f"{given[index][0]} {list(given[index][1].shape)}" if index < len(given) else "none"
        raise SubbyteError(
            f"'{file}' is not of a classifier with {name}'s backbone: its tensor {index + 1} is "
            f"{found}, where the backbone has {place} {list(value.shape)}"
        )
    with torch.no_grad():
        for (_, value), (_, new) in zip(wanted, given, strict=False):
            value.copy_(new)


def load_start(
    model: SSD, name: str, file: Path, classes: tuple[str, ...], key: str | None = None
) -> None:
    """Put the weights of an SSD of the same name into a model.

    Where the file is known to have other classes, the heads for these keep their random weights.

    Args:
        model: The SSD.
        name: The member's name.
        file: The weights.
        classes: What the model is for.
        key: Under which of the file's keys they are; see `read_checkpoint`.

    Raises:
        SubbyteError: The weights do not fit, or have the same classes in another order.
    """
    path = checkpoint_file(file)
    state = untangled(read_checkpoint(path, key=key))
    count = fitting(name, None, state, path)
    known = known_classes(path, count)
    if known is not None and known != classes and set(known) == set(classes):
        first = next(pair for pair in zip(known, classes, strict=True) if pair[0] != pair[1])
        raise SubbyteError(
            f"'{file}' has the classes of the data in another order ('{first[0]}' where the data "
            f"has '{first[1]}'): give the data's classes in the order {', '.join(known)}"
        )
    if count != model.num_classes or known not in (None, classes):
        heads = f"{MEMBERS[name].names.classes}."
        own: dict[str, Tensor] = model.network.state_dict()
        state.update((key, value) for key, value in own.items() if key.startswith(heads))
    load_state(model.network, state, path)


def _count(key: str) -> bool:
    return key.endswith(".num_batches_tracked")
