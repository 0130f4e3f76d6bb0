"""Reading weights from a file, without ever running what the file may contain."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from subbyte.errors import SubbyteError
from subbyte.models.config import missing_checkpoint
from subbyte.models.state_dicts import AVERAGED, chosen, one_line, others, tidy, with_metadata

# How torch's restricted unpickler complains of a file that wants more than tensors and containers.
_WANTS_CODE = (
    "GLOBAL",
    "call reduce",
    "Can only",
    "persistent id",
    "TorchScript",
    "must be imported",
)


def load_checkpoint(module: nn.Module, path: Path, key: str | None = None) -> None:
    """Load the state dict in `path` (safetensors or torch.save) into `module`, strictly.

    Args:
        module: The module.
        path: The file.
        key: Under which of the file's keys the state dict is; see `read_checkpoint`.

    Raises:
        SubbyteError: The file is missing, cut off, needs code to load, holds a value that is not
            finite, or does not fit; the module is then of no further use.
    """
    load_state(module, read_checkpoint(path, module.state_dict().keys(), key), path)


def read_checkpoint(
    path: Path, expected: Collection[str] = (), key: str | None = None
) -> OrderedDict[str, Tensor]:
    """The state dict in `path`, on the CPU, every value finite.

    A dict around it is unwrapped, and prefixes that wrappers of models (DataParallel,
    torch.compile, Lightning) put before every name are removed, unless the names in `expected` have
    them too.

    Args:
        path: The file.
        expected: The names that the model has, where these are known.
        key: Keys of the file's dictionaries with dots between, as "ema.module"; `None`: the first
            of `state_dicts.WRAPPERS` that is there.

    Raises:
        SubbyteError: The file is missing, cut off, needs code to load, or holds no such state dict.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise missing_checkpoint(path, what)
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    state = tidy(chosen(content, path, key), expected)
    _refuse_non_finite(state, path)
    return state


def plain_values(path: Path) -> dict[str, Any]:
    """What a file of `torch.save` holds at its top beside tensors, such as the classes' names.

    Raises:
        SubbyteError: As `read_checkpoint`.
    """
    if path.suffix == ".safetensors":
        return {}
    content = _torch_file(path, mapped=zipfile.is_zipfile(path))
    found = content if isinstance(content, Mapping) else {}
    return {str(key): value for key, value in found.items() if not isinstance(value, Tensor)}


def other_weights(path: Path) -> str | None:
    """A sentence on which weights are taken of a file that holds several of the same form.

    `None` where it holds no others. Values are not read where the file's format allows that.
    """
    if not path.is_file() or path.suffix == ".safetensors":
        return None
    taken, found = others(_torch_file(path, mapped=zipfile.is_zipfile(path)), path)
    if not found:
        return None
    named = [f"{key} (averaged)" if key.split(".")[0] in AVERAGED else key for key in found]
    return (
        f"the weights are those under {taken} in {path.name}, which holds others of the same "
        f"form under {', '.join(named)}: checkpoint_key, as {found[0]}, takes these"
    )


def notes_of(files: Iterable[Path | None], key: str | None) -> list[str]:
    """What must be known of the weights in some files, unless the user chose them by their key.

    Args:
        files: Checkpoints; `None` where none is given.
        key: The key that was asked for.
    """
    if key is not None:
        return []
    found = [other_weights(file) for file in files if file is not None]
    return [note for note in found if note is not None]


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load a state dict into a module, strictly.

    Args:
        module: The module.
        state: Name → tensor.
        source: The file that errors name.
    """
    own = module.state_dict()
    _refuse_other_shapes(own, state, source)
    state = OrderedDict(state) if not isinstance(state, OrderedDict) else state
    if not hasattr(state, "_metadata"):
        # Some modules (MNASNet) refuse names without a version; a file without is taken as new.
        state = with_metadata(state, getattr(own, "_metadata", {}))
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise SubbyteError(f"'{source}' does not fit the model: {one_line(error)}") from None
    # PyTorch before 1.0 did not count batches, and in eval mode nothing reads the count.
    missing = [name for name in missing if not name.endswith(".num_batches_tracked")]
    parts = [f"it lacks {_listed(missing)}"] if missing else []
    parts += [f"the model has no {_listed(unexpected)}"] if unexpected else []
    if parts:
        raise SubbyteError(f"'{source}' does not fit the model: {', and '.join(parts)}")


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        raise SubbyteError(
            f"checkpoint '{path}' is cut off, or not a safetensors file ({one_line(error)})"
        ) from None


def _torch_file(path: Path, *, mapped: bool = False) -> object:
    try:
        # torchvision's and others' training scripts keep their arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can raise anything
        raise _unreadable(path, str(error)) from None


def _unreadable(path: Path, message: str) -> SubbyteError:
    pickled = "Unsupported operand" in message and path.open("rb").read(1) == b"\x80"
    if pickled or any(sign in message for sign in _WANTS_CODE):
        found = re.search(r"GLOBAL ([\w.]+)", message)
        what = f"pickled objects ({found[1]})" if found else "pickled objects"
        return SubbyteError(
            f"checkpoint '{path}' holds {what}, which could run code when loaded, "
            "and was not loaded: save model.state_dict() instead"
        )
    return SubbyteError(f"checkpoint '{path}' is cut off, or not a file that torch.save wrote")


def _refuse_non_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        bad = int((~torch.isfinite(tensor.float())).sum())
        if bad:
            layer, _, what = one_line(name).rpartition(".")
            raise SubbyteError(
                f"layer '{layer}' in '{path}' has NaN or infinity in {bad} of the "
                f"{tensor.numel()} values of its {what}"
            )


def _refuse_other_shapes(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Path
) -> None:
    different = [
        f"{name} is {list(state[name].shape)} in the file and {list(mine.shape)} in the model"
        for name, mine in own.items()
        if name in state and state[name].shape != mine.shape
    ]
    if different:
        raise SubbyteError(f"'{source}' does not fit the model: {_listed(different)}")


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return one_line(", ".join(items[:3])) + more
