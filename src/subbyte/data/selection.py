"""Which of the images are used, and how many of them are used on both sides."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from subbyte.data.config import DataConfig
from subbyte.errors import SubbyteError


def calibration_indices(available: int, config: DataConfig, seed: int) -> list[int]:
    """Which images calibrate, in the order in which they are used.

    Args:
        available: How many there are, sorted.
        config: How many are wanted; its default takes what there is.
        seed: Of the choice.

    Raises:
        SubbyteError: `calibration_images` was given and there are fewer.
    """
    wanted = config.calibration_images
    if wanted > available:
        if "calibration_images" in config.model_fields_set:
            raise _too_many("calibration_images", wanted, available)
        wanted = available
    return [int(i) for i in np.random.default_rng(seed).choice(available, wanted, replace=False)]


def evaluation_indices(available: int, config: DataConfig, seed: int) -> list[int]:
    """Which images are evaluated, in ascending order.

    Args:
        available: How many there are, sorted.
        config: How many are wanted.
        seed: Of the choice.

    Raises:
        SubbyteError: `evaluation_images` is more than there are.
    """
    wanted = config.evaluation_images
    if wanted is None:
        return list(range(available))
    if wanted > available:
        raise _too_many("evaluation_images", wanted, available)
    chosen = np.random.default_rng(seed).choice(available, wanted, replace=False)
    return sorted(int(i) for i in chosen)


def simulation_indices(available: int, wanted: int | None) -> tuple[int, ...]:
    """Which evaluation images the simulation takes, in ascending order.

    If these are not all, they are evenly spaced, so that images that are sorted by class give each
    class its share.

    Args:
        available: How many there are.
        wanted: How many are taken; `None`: all.
    """
    if wanted is None or wanted >= available:
        return tuple(range(available))
    return tuple((2 * i + 1) * available // (2 * wanted) for i in range(wanted))


def overlap(calibration: Iterable[Path], evaluation: Iterable[Path]) -> int:
    """How many calibration files are also evaluation files: the same file, or the same content."""
    same_size: dict[int, list[Path]] = {}
    for path in evaluation:
        same_size.setdefault(os.path.getsize(path), []).append(path)
    known: dict[int, tuple[set[str], set[bytes]]] = {}
    count = 0
    for path in calibration:
        size = os.path.getsize(path)
        if size not in same_size:
            continue
        if size not in known:  # hash an evaluation file only once, and only if it can matter
            twins = same_size[size]
            known[size] = {os.path.realpath(twin) for twin in twins}, set(map(_digest, twins))
        places, digests = known[size]
        count += os.path.realpath(path) in places or _digest(path) in digests
    return count


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _too_many(key: str, wanted: int, available: int) -> SubbyteError:
    return SubbyteError(
        f"data.{key} is {wanted}, but there are {available} images: give at most {available}"
    )
