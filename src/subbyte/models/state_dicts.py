"""Which of the state dicts in a training's file is taken, and how its names become the model's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from subbyte.errors import SubbyteError, unknown

# Under which keys training scripts keep averaged weights: those of RT-DETR, timm, torchvision,
# BasicSR and mmengine.
AVERAGED = ("ema", "state_dict_ema", "model_ema", "params_ema", "ema_state_dict")
# Under which keys they keep a state dict; the first that is there is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params", "module", *AVERAGED)
# What wrappers of a model put before its names: DataParallel, torch.compile, Lightning's modules.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

_COUNT = "n_averaged"  # beside the weights that torch's AveragedModel keeps under "module."
_DEPTH = 3  # of keys below which state dicts are looked for

Weights = Mapping[str, Tensor]


def chosen(content: object, path: Path, key: str | None) -> Weights:
    """The state dict that a file's content holds under `key`.

    Args:
        content: What the file holds.
        path: The file, for messages.
        key: Dictionaries' keys with dots between, as "ema.module"; `None`: the first of `WRAPPERS`
            that is there, and below it the same again.

    Raises:
        SubbyteError: Nothing is there, or something else than a state dict.
    """
    state = _below(content, _keys(content, path, key))
    if not isinstance(state, Mapping):
        raise SubbyteError(f"checkpoint '{path}' holds a {type(state).__name__}, not a state dict")
    strange = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        what = f"'{one_line(strange[0])}' is not a tensor" if strange else "it is empty"
        found = [name for name, _ in _state_dicts(content)]
        more = f", but under {', '.join(found)}: give one as checkpoint_key" if found else ""
        raise SubbyteError(
            f"checkpoint '{path}' holds no state dict ({what}), nor one under "
            f"{', '.join(WRAPPERS)}{more}"
        )
    return state


def others(content: object, path: Path) -> tuple[str, list[str]]:
    """The key of the state dict that is taken by itself, and those of others with its tensors.

    Others have the same names and shapes, as averaged weights beside the last ones have.

    Args:
        content: What the file holds, a state dict among it.
        path: The file, for messages.
    """
    keys = _keys(content, path, None)
    taken = ".".join(keys)
    shapes = _shapes(chosen(content, path, None))
    if not keys:
        return taken, []
    return taken, [
        name for name, state in _state_dicts(content) if name != taken and _shapes(state) == shapes
    ]


def tidy(state: Weights, expected: Collection[str] = ()) -> OrderedDict[str, Tensor]:
    """`state` without the prefixes that every name has and no name in `expected`.

    Where what has a prefix is all that is expected, what has none is left out: the buffers of a
    loss beside Lightning's `model`.
    """
    metadata = dict(getattr(state, "_metadata", None) or {})
    names, length = _without_count(state, expected), 0
    while prefix := _shared_prefix([name[length:] for name in names], expected):
        length += len(prefix)
    if expected and not length:
        names, length = _fitting(names, expected)
    shorter = OrderedDict((name[length:], state[name]) for name in names)
    return with_metadata(shorter, {name[length:]: kept for name, kept in metadata.items()})


def with_metadata(
    state: OrderedDict[str, Tensor], metadata: Mapping[str, Any]
) -> OrderedDict[str, Tensor]:
    """A copy with the versions of modules' own formats where `load_state_dict` looks for them."""
    copy = OrderedDict(state)
    if metadata:
        copy._metadata = metadata  # type: ignore[attr-defined]
    return copy


def one_line(text: object) -> str:
    """Text of a file or a library as part of a sentence: names in a file can hold anything."""
    words = " ".join(str(text).split())[:600]
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _keys(content: object, path: Path, key: str | None) -> list[str]:
    """The keys that lead to a state dict: those in `key`, then those of `WRAPPERS`."""
    keys = [] if key is None else _asked(content, path, key)
    while isinstance(inner := _below(content, keys), Mapping):
        known = [name for name in WRAPPERS if isinstance(inner.get(name), Mapping)]
        if not known:
            break
        keys = [*keys, known[0]]
    return keys


def _asked(content: object, path: Path, key: str) -> list[str]:
    for keys in ([key], key.split(".")):
        if _below(content, keys) is not None:
            return keys
    found = [name for name, _ in _state_dicts(content)]
    if not found:
        raise SubbyteError(
            f"checkpoint '{path}' holds weights under no key: leave checkpoint_key out"
        )
    raise unknown(f"checkpoint_key of '{path}'", key, found)


def _below(content: object, keys: Collection[str]) -> object:
    """What is under one key after the other; `None`: nothing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _state_dicts(content: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Weights]]:
    """All state dicts below `content`, each with its keys, joined by dots."""
    if not isinstance(content, Mapping) or len(keys) > _DEPTH:
        return
    if keys and content and all(isinstance(value, Tensor) for value in content.values()):
        if all(isinstance(name, str) for name in content):
            yield ".".join(keys), content
        return
    for name, inner in content.items():
        if isinstance(name, str):
            yield from _state_dicts(inner, (*keys, name))


def _shapes(state: Weights) -> dict[str, tuple[int, ...]]:
    # PyTorch before 1.0 did not count batches.
    tidied = tidy(state).items()
    return {k: tuple(v.shape) for k, v in tidied if not k.endswith(".num_batches_tracked")}


def _without_count(state: Weights, expected: Collection[str]) -> list[str]:
    names = [name for name in state if name != _COUNT]
    averaged = names and all(name.startswith("module.") for name in names)
    return names if averaged and _COUNT not in expected else list(state)


def _shared_prefix(names: list[str], expected: Collection[str]) -> str | None:
    for prefix in PREFIXES:
        kept = any(name.startswith(prefix) for name in expected)
        if names and not kept and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _fitting(names: list[str], expected: Collection[str]) -> tuple[list[str], int]:
    """The names that are those expected behind a prefix, and its length; else all, and 0."""
    wanted = {name for name in expected if not name.endswith(".num_batches_tracked")}
    for prefix in PREFIXES:
        part = [name for name in names if name.startswith(prefix)]
        found = {name[len(prefix) :] for name in part}
        if wanted and wanted <= found <= set(expected):
            return part, len(prefix)
    return names, 0
