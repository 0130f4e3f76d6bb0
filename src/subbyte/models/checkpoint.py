"""Reading weights from a file, without ever running what the file may contain."""

from __future__ import annotations

import argparse
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from subbyte.errors import SubbyteError
from subbyte.models.config import missing_checkpoint

# Under which key training scripts keep the state dict, and what wrappers put before its names.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")

# How torch's restricted unpickler complains of a file that wants more than tensors and containers.
_WANTS_CODE = (
    "GLOBAL",
    "call reduce",
    "Can only",
    "persistent id",
    "TorchScript",
    "must be imported",
)


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Load the state dict in `path` (safetensors or torch.save) into `module`, strictly.

    Raises `SubbyteError` if the file is missing, cut off, needs code to load, holds a value that
    is not finite, or does not fit; the module is then of no further use.
    """
    load_state(module, read_checkpoint(path, module.state_dict().keys()), path)


def read_checkpoint(path: Path, expected: Collection[str] = ()) -> OrderedDict[str, Tensor]:
    """The state dict in `path`, on the CPU, every value finite.

    A dict around it is unwrapped, and prefixes that DataParallel and torch.compile put before
    every name are removed, unless the names in `expected` have them too.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise missing_checkpoint(path, what)
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    state = tidy(_unwrapped(content, path), expected)
    _refuse_non_finite(state, path)
    return state


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
        state = _with_metadata(state, getattr(own, "_metadata", {}))
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise SubbyteError(f"'{source}' does not fit the model: {_one_line(error)}") from None
    # PyTorch before 1.0 did not count batches, and in eval mode nothing reads the count.
    missing = [name for name in missing if not name.endswith(".num_batches_tracked")]
    parts = [f"it lacks {_listed(missing)}"] if missing else []
    parts += [f"the model has no {_listed(unexpected)}"] if unexpected else []
    if parts:
        raise SubbyteError(f"'{source}' does not fit the model: {', and '.join(parts)}")


def tidy(state: Mapping[str, Tensor], expected: Collection[str] = ()) -> OrderedDict[str, Tensor]:
    """`state` without the prefixes that every name has and no name in `expected`."""
    names = list(state)
    metadata = dict(getattr(state, "_metadata", None) or {})
    length = 0
    while prefix := _shared_prefix([name[length:] for name in names], expected):
        length += len(prefix)
    shorter = OrderedDict((name[length:], tensor) for name, tensor in state.items())
    return _with_metadata(shorter, {name[length:]: kept for name, kept in metadata.items()})


def _shared_prefix(names: list[str], expected: Collection[str]) -> str | None:
    for prefix in PREFIXES:
        kept = any(name.startswith(prefix) for name in expected)
        if names and not kept and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _with_metadata(
    state: OrderedDict[str, Tensor], metadata: Mapping[str, Any]
) -> OrderedDict[str, Tensor]:
    copy = OrderedDict(state)
    if metadata:
        # Versions of the modules' own formats, where load_state_dict looks for them.
        copy._metadata = metadata  # type: ignore[attr-defined]
    return copy


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        raise SubbyteError(
            f"checkpoint '{path}' is cut off, or not a safetensors file ({_one_line(error)})"
        ) from None


def _torch_file(path: Path) -> object:
    try:
        # torchvision's and others' training scripts keep their arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _unwrapped(content: object, path: Path) -> Mapping[str, Tensor]:
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise SubbyteError(
            f"checkpoint '{path}' holds a {type(content).__name__}, not a state dict"
        )
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        what = f"'{_one_line(strange[0])}' is not a tensor" if strange else "it is empty"
        raise SubbyteError(
            f"checkpoint '{path}' holds no state dict ({what}), nor one under {', '.join(WRAPPERS)}"
        )
    return content


def _refuse_non_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        bad = int((~torch.isfinite(tensor.float())).sum())
        if bad:
            layer, _, what = _one_line(name).rpartition(".")
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
    return _one_line(", ".join(items[:3])) + more


def _one_line(text: object) -> str:
    """Text of a file or a library as part of a sentence: names in a file can hold anything."""
    words = " ".join(str(text).split())[:600]
    return "".join(letter if letter.isprintable() else "?" for letter in words)
