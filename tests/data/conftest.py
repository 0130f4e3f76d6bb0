"""Small pictures on disk, and a check that errors are one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subbyte.errors import SubbyteError

Draw = Callable[..., Path]
Refuses = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def draw() -> Draw:
    """draw(path, seed=0, size=(12, 10)): save a picture of random pixels, (width, height) large."""

    def save(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0], 3)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture
def pets(tmp_path: Path, draw: Draw) -> Path:
    """A root with train/ and val/, classes cat and dog, 3 different images a class and split."""
    for s, split in enumerate(("train", "val")):
        for c, name in enumerate(("cat", "dog")):
            for i in range(3):
                draw(tmp_path / "pets" / split / name / f"{i}.png", seed=100 * s + 10 * c + i)
    return tmp_path / "pets"


@pytest.fixture
def refuses() -> Refuses:
    """refuses(*texts): the block raises a SubbyteError of one sentence with all texts in it."""

    @contextmanager
    def check(*texts: str) -> Iterator[None]:
        with pytest.raises(SubbyteError) as caught:
            yield
        assert "\n" not in str(caught.value)
        for text in texts:
            assert text in str(caught.value)

    return check
