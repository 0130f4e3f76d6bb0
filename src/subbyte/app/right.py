"""`images.npz` of a run: what was right of each image, so that two runs can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subbyte.utils.files import atomic

if TYPE_CHECKING:  # who reads the file need not import PyTorch
    from subbyte.tasks.base import Task
    from subbyte.tasks.measure import Measured

SIMULATION = "simulation"
KEYS = "keys"
NUMBERS = "numbers"


@dataclass(frozen=True)
class Right:
    """What one run was right about.

    Attributes:
        keys: (n,) uint64, the key of each image that it ran.
        values: Name → array, as the task's `per_image` gives them.
    """

    keys: np.ndarray
    values: dict[str, np.ndarray]


def write_images(path: Path, task: Task, found: Measured, keys: np.ndarray | None = None) -> None:
    """Write what each run of an entry was right about.

    Args:
        path: The file.
        task: Whose images they are.
        found: What was measured.
        keys: Of all evaluation images; given with the float model's entry.
    """
    everything = np.arange(task.data.evaluation.images, dtype=np.int32)
    arrays: dict[str, Any] = {} if keys is None else {KEYS: keys}
    for run, values in found.per_image.items():
        some = np.array(task.simulated_images, np.int32)
        arrays[f"{run}.{NUMBERS}"] = some if run == SIMULATION else everything
        arrays |= {f"{run}.{name}": value for name, value in values.items()}
    with atomic(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_images(path: Path, keys: np.ndarray) -> dict[str, Right]:
    """What each run of an entry was right about; nothing where an older run has no such file.

    Args:
        path: The entry's file.
        keys: Of all evaluation images of the run.
    """
    if not path.is_file():
        return {}
    found: dict[str, Right] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            run, dot, value = name.partition(".")
            if dot and value == NUMBERS:
                parts = [key for key in arrays.files if key.startswith(f"{run}.") and key != name]
                values = {key.partition(".")[2]: arrays[key] for key in parts}
                found[run] = Right(keys[arrays[name]], values)
    return found


def read_keys(folder: Path) -> np.ndarray | None:
    """The keys of a run's evaluation images; `None` where an older run has none."""
    path = folder / "float" / "images.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        keys: np.ndarray = arrays[KEYS]
        return keys
