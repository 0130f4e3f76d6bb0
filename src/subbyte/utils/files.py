"""Files appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from subbyte.errors import SubbyteError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place when the block ends well.

    Raises:
        SubbyteError: `path` is a folder, or its folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise SubbyteError(f"{path} is a folder: name a file to write")
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
    except OSError as error:
        raise SubbyteError(f"{path} cannot be written: {error.strerror}") from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it takes `path`'s place when the block ends well."""
    if path.exists() and not path.is_dir():
        raise SubbyteError(f"{path} is a file: name a folder")
    make_folder(path.parent)
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise SubbyteError(f"{path} cannot be written: {error.strerror}") from None
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents; `SubbyteError` if something else stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SubbyteError(f"{path} is or lies under a file: name a folder") from None
    except OSError as error:
        raise SubbyteError(f"{path} cannot be made: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(finite(value), indent=2))


def finite(value: Any) -> Any:
    """Plain data with `None` in the place of numbers that are NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
