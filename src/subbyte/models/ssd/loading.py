"""From a member's name and a checkpoint to an SSD."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from subbyte.data import categories
from subbyte.errors import SubbyteError
from subbyte.models.checkpoint import load_state, read_checkpoint
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec
from subbyte.models.ssd.members import COCO, MEMBERS, VOC, Member, make

# Of a folder that training has written: the file of the weights, and the key of its metadata.
FILE = "model.safetensors"
METADATA = "subbyte"
# The classes that the published checkpoints have, by their number with the background.
PUBLISHED = {VOC: categories.VOC, COCO: categories.COCO}


def names() -> list[str]:
    """The members of the SSD family."""
    return list(MEMBERS)


def load(config: ModelConfig) -> ModelSpec:
    """An SSD by name, with a checkpoint's weights or random ones.

    The checkpoint is a file of the project that the member is from, or what training here has
    written, file or folder. `num_classes` counts the background; without it the checkpoint decides,
    and without that the data set of the published ones. Raises `SubbyteError` if the file is
    missing, another member's, or has another number of classes.
    """
    name = str(config.name)
    member = MEMBERS[name]
    if config.weights is not None:
        raise SubbyteError(
            f"{name} has no weights by name: give its project's published file as checkpoint"
        )
    if config.num_classes is not None and config.num_classes < 2:
        raise SubbyteError("num_classes is 1, but counts the background: give at least 2")
    if config.checkpoint is None:
        module = make(member, config.num_classes or member.classes)
        known = PUBLISHED.get(module.num_classes)
        return ModelSpec(name, module, "detection", None, known)
    file = checkpoint_file(config.checkpoint)
    state = untangled(read_checkpoint(file, key=config.checkpoint_key))
    count = fitting(name, config.num_classes, state, file)
    module = make(member, count)
    load_state(module.network, state, file)
    known = known_classes(file, count)
    return ModelSpec(name, module, "detection", None, known)


def checkpoint_file(path: Path) -> Path:
    """The checkpoint's file: of a folder, the one that training writes."""
    return path / FILE if path.is_dir() and (path / FILE).is_file() else path


def untangled(state: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """NVIDIA's older files have the model as the second of two modules in a row."""
    if not all(key.startswith("1.") for key in state):
        return state
    return OrderedDict((key[2:], tensor) for key, tensor in state.items())


def fitting(name: str, wanted: int | None, state: Mapping[str, Tensor], file: Path) -> int:
    """The number of classes in a state dict.

    Args:
        name: The member that it shall fit.
        wanted: How many classes are asked for; `None`: any number.
        state: Name → tensor.
        file: Where it comes from, for messages.

    Raises:
        SubbyteError: It is another member's, or has another number of classes than `wanted`.
    """
    if not _is(name, state):
        others = [other for other in MEMBERS if other != name and _is(other, state)]
        if others:
            raise SubbyteError(
                f"'{file}' does not fit {name}: it looks like a checkpoint of {others[0]}, so "
                "give that as the model's name"
            )
    count = _classes(MEMBERS[name], state)
    if count is None:
        return wanted or MEMBERS[name].classes  # load_state names what does not fit
    if wanted not in (None, count):
        raise SubbyteError(
            f"'{file}' has {count} classes with the background, but num_classes is {wanted}: "
            f"give {count}, or leave it out"
        )
    return count


def _classes(member: Member, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes by the size of the last head, which is one layer in every member."""
    last = len(member.heads) - 1
    weight = state.get(f"{member.names.classes}.{last}.weight")
    boxes = state.get(f"{member.names.boxes}.{last}.weight")
    if weight is None or boxes is None or not len(boxes) or len(weight) * 4 % len(boxes):
        return None
    count = len(weight) * 4 // len(boxes)
    return count if count > 1 else None


def _is(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether `state` has the names and shapes of the member."""
    member = MEMBERS[name]
    count = _classes(member, state)
    if count is None:
        return False
    with torch.device("meta"):
        own = make(member, count).network.state_dict()
    return _shapes(own) == _shapes(state)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    # PyTorch before 1.0 did not count batches.
    return {k: v.shape for k, v in state.items() if not k.endswith(".num_batches_tracked")}


def known_classes(file: Path, count: int) -> tuple[str, ...] | None:
    """The names of the classes of a checkpoint with `count` of them, without the background.

    What training has written into the file; else those of the data set with so many.
    """
    return _trained(file) or PUBLISHED.get(count)


def _trained(file: Path) -> tuple[str, ...] | None:
    """The classes' names that training has written into the file."""
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(str(file), framework="pt") as content:
            metadata = json.loads((content.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, ValueError):
        return None
    return tuple(metadata["classes"]) if "classes" in metadata else None
