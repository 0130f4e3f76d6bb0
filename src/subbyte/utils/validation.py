"""Pydantic's errors as one sentence: which key, what was wrong, what would be right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

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


class Checked(BaseModel):
    """A pydantic model whose constructor raises `SubbyteError` with one sentence."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise explain(error, self.__class__) from None


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> SubbyteError:
    """The first fault in an error as a `SubbyteError`.

    Args:
        error: What pydantic raised.
        model: The model whose fields were checked.
        prefix: The key at which the model stands; empty: at the top.
    """
    first = error.errors(include_url=False)[0]
    path = [
        str(part) for part in first["loc"] if not str(part).startswith(("function-", "tagged-"))
    ]
    where = ".".join([*([prefix] if prefix else []), *path])
    if first["type"] == "extra_forbidden":
        return unknown("key", where, [_joined(where, key) for key in _keys_beside(path, model)])
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] in ("value_error", "missing") or not path:
        more = "" if first["type"] != "missing" else " is missing"
        if more:
            return SubbyteError(f"{where}{more}: give it a value")
        return SubbyteError(f"{where}: {message}" if where else message)
    return SubbyteError(f"{where} is {short(first['input'])}: {message[:1].lower()}{message[1:]}")


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
