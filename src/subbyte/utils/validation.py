"""Pydantic's errors as sentences: which key, what was wrong, what would be right."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ValidationError

from subbyte.errors import SubbyteError, unknown


def _device_here(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError(f"'{value}' is not a device: give cpu or cuda")
    if value.startswith("cuda"):
        import torch  # only here: what asks for no GPU is checked without it

        if not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here: give cpu")
    return value


Device = Annotated[str, AfterValidator(_device_here)]  # "cpu" or "cuda", of those that are here


# A path in which "~" stands for the home folder.
HomePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]


P = ParamSpec("P")
T = TypeVar("T")


class FaultsError(SubbyteError):
    """Several faults of one input; its arguments are a sentence for each."""

    def __str__(self) -> str:
        return "; ".join(self.args)


class _SaidError(ValueError):
    """Sentences that say themselves which keys they are about; pydantic collects them."""


class Checked(BaseModel):
    """A pydantic model whose constructor raises `SubbyteError` with a sentence for each fault."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise explain(error, self.__class__) from None


def told(validator: Callable[P, T]) -> Callable[P, T]:
    """A validator whose `SubbyteError` stands beside the faults of other fields."""

    @wraps(validator)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return validator(*args, **kwargs)
        except SubbyteError as error:
            raise _SaidError(*_sentences(error)) from None

    return run


@contextmanager
def gathered(faults: list[str], prefix: str = "") -> Iterator[None]:
    """Add the sentences of a `SubbyteError` to `faults`, each behind `prefix`, and go on."""
    try:
        yield
    except SubbyteError as error:
        faults += [f"{prefix}{sentence}" for sentence in _sentences(error)]


def refuse(faults: Sequence[str]) -> None:
    """Raise a `SubbyteError` of all faults, if there are any."""
    if faults:
        raise FaultsError(*faults)


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> SubbyteError:
    """The faults in an error as a `SubbyteError`, unknown keys first: they explain missing ones.

    Args:
        error: What pydantic raised.
        model: The model whose fields were checked.
        prefix: The key at which the model stands; empty: at the top.
    """
    faults: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for fault in error.errors(include_url=False):
        # Of a value that may be of several kinds pydantic tells what each of them lacks.
        faults.setdefault(_place(_path(fault), model), fault)
    ordered = sorted(faults.values(), key=lambda fault: fault["type"] != "extra_forbidden")
    return FaultsError(*(text for fault in ordered for text in _explained(fault, model, prefix)))


def _sentences(error: SubbyteError) -> tuple[str, ...]:
    return error.args if isinstance(error, FaultsError) else (str(error),)


def _path(fault: Mapping[str, Any]) -> list[str]:
    parts = [str(part) for part in fault["loc"]]
    return [part for part in parts if not part.startswith(("function-", "tagged-"))]


def _place(path: Sequence[str], model: type[BaseModel]) -> tuple[str, ...]:
    """The part of a path up to a field that is no model of its own."""
    current: Any = model
    for count, part in enumerate(path, 1):
        field = getattr(current, "model_fields", {}).get(part)
        current = None if field is None else field.annotation
        kinds = [kind for kind in get_args(current) if kind is not type(None)]
        current = kinds[0] if len(kinds) == 1 else current
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return tuple(path[:count])
    return tuple(path)


def _explained(fault: Mapping[str, Any], model: type[BaseModel], prefix: str) -> tuple[str, ...]:
    """The sentences on one fault."""
    reason = fault.get("ctx", {}).get("error")
    if isinstance(reason, _SaidError):
        return reason.args
    path = _path(fault)
    where = ".".join([*([prefix] if prefix else []), *path])
    if fault["type"] == "extra_forbidden":
        known = [_joined(where, key) for key in _keys_beside(path, model)]
        return (str(unknown("key", where, known)),)
    if fault["type"] == "missing":
        return (f"{where} is missing: give it a value",)
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    if fault["type"] == "value_error" or not path:
        return (f"{where}: {message}" if where else message,)
    return (f"{where} is {short(fault['input'])}: {message[:1].lower()}{message[1:]}",)


def _joined(where: str, key: str) -> str:
    parent, _, _ = where.rpartition(".")
    return f"{parent}.{key}" if parent else key


def _keys_beside(path: list[str], model: type[BaseModel]) -> Iterable[str]:
    """Names of the fields that were allowed where an unknown key stood."""
    current: Any = model
    for part in path[:-1]:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            break
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if models:
            current = models[0]
    return list(getattr(current, "model_fields", {}))


def short(value: object) -> str:
    """A value as it stands in a sentence: on one line, and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "…"
