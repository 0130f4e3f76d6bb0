"""What a runtime's refusal to run a batch is called for a user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subbyte.errors import SubbyteError


def refused(path: Path, inputs: Sequence[np.ndarray], error: Exception) -> SubbyteError:
    """The error for inputs that a model does not take."""
    shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
    reason = " ".join(str(error).split())
    return SubbyteError(f"{path} does not run on an input of shape {shapes}: {reason[:300]}")
