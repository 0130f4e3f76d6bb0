"""What an image is known by, wherever its file lies: a number made of its content."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from subbyte.data.dataset import ImageArrays, ImageFiles, InOrder
from subbyte.data.images import THREADS


def image_keys(batches: InOrder) -> np.ndarray:
    """A number for each image of `batches`, uint64: equal ones are of equal files or pixels."""
    dataset: Any = batches.dataset
    images: ImageFiles | ImageArrays = (
        dataset if isinstance(dataset, ImageFiles | ImageArrays) else dataset.images
    )

    def key(index: int) -> int:
        if isinstance(images, ImageFiles):
            content = images.paths[index].read_bytes()
        else:
            content = np.ascontiguousarray(images.images[index]).tobytes()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

    with ThreadPoolExecutor(THREADS) as pool:
        return np.fromiter(pool.map(key, range(batches.images)), np.uint64, batches.images)
