"""Errors of runtimes for a user: one is not installed, or refuses a batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.errors import SubbyteError

_INSTEAD = "run the file in ONNX Runtime, or build the model without that operator"
_FOLLOWS = re.compile(r"has to be known|must be static")


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


def unconverted(text: str) -> str:
    """Which operators OpenVINO cannot read, and what to do; empty where its error is another.

    Args:
        text: What OpenVINO raised when it read a file.
    """
    unknown = re.search(r"No conversion rule found for operations: (.+)", text)
    if unknown:
        names = ", ".join(re.sub(r"-\d+\b", "", unknown[1]).split(", "))
        return f"it has no operator {names}: {_INSTEAD}"
    parts = re.findall(r"^-- (\w+)-\d+ with a message:\n(.+?)\n\n", text, re.DOTALL | re.MULTILINE)
    reasons = {name: _last_line(message) for name, message in parts}
    # An operator behind one that could not be read knows nothing of its input.
    causes = {name: said for name, said in reasons.items() if not _FOLLOWS.search(said)} or reasons
    said = ", ".join(f"{name} ({reason})" for name, reason in causes.items())
    return f"it cannot read the operator {said}: {_INSTEAD}" if said else ""


def _last_line(message: str) -> str:
    """What a message says at its end, behind the places in OpenVINO's own source."""
    return message.strip().splitlines()[-1].strip().rstrip(".")
