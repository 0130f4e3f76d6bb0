"""Errors of runtimes for a user: one is not installed, or refuses a batch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.errors import SubbyteError


def imported(runtime: str) -> Any:
    """The package of a runtime, which an extra of the same name installs.

    Raises:
        SubbyteError: It is not installed.
    """
    try:
        return import_module(runtime)
    except ImportError:
        raise SubbyteError(
            f"the runtime {runtime} is not installed: pip install 'subbyte[{runtime}]'"
        ) from None


def refused(path: Path, inputs: Sequence[np.ndarray], error: Exception) -> SubbyteError:
    """The error for inputs that a model does not take.

    Args:
        path: The file.
        inputs: What it was given.
        error: What the runtime raised.
    """
    shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
    reason = " ".join(str(error).split())
    return SubbyteError(f"{path} does not run on an input of shape {shapes}: {reason[:300]}")
