"""A method that was interrupted goes on behind its last finished block, to the same result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from methods_helpers import model
from torch import nn

from residual import Residual
from subbyte import Recipe, SubbyteError, quantize
from subbyte.utils.progress import Silent

pytestmark = pytest.mark.slow

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [IMAGES[:24], IMAGES[24:]]
T = TypeVar("T")


class CutError(Exception):
    pass


class Cutting(Silent):
    """A progress by which a run is interrupted behind so many blocks."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            if description.startswith(("learning", "fitting")):
                if not self.left:
                    raise CutError
                self.left -= 1
            yield item


def recipe(name: str, **fields: Any) -> Recipe:
    options = {"activation_steps": 20} if name == "brecq" else {}
    method = {"name": name, "steps": 20, **options}
    return Recipe(**{"weights": 3, "activations": 4, "method": method, **fields})


@pytest.mark.parametrize(
    ("name", "finished", "in_all"),
    [("qdrop", 2, 3), ("adaround", 1, 3), ("brecq", 4, 6), ("subbyte", 2, 4)],
)
def test_it_goes_on_to_the_same_result(
    name: str, finished: int, in_all: int, tmp_path: Path
) -> None:
    whole = quantize(model(), BATCHES, recipe(name))
    with pytest.raises(CutError):
        quantize(model(), BATCHES, recipe(name), progress=Cutting(finished), resume=tmp_path)
    kept = {file: file.stat() for file in tmp_path.glob("*.safetensors")}
    assert len(kept) == finished
    again = quantize(model(), BATCHES, recipe(name), resume=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == in_all
    for file, before in kept.items():  # what was finished is not learned again
        now = file.stat()
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert torch.equal(again(IMAGES), whole(IMAGES))
    found, expected = again.state_dict(), whole.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    names = [note["block"] for note in again.reported["blocks"]]
    assert names == [note["block"] for note in whole.reported["blocks"]]


def test_what_is_finished_is_not_computed_again(tmp_path: Path) -> None:
    whole = quantize(model(), BATCHES, recipe("subbyte"), resume=tmp_path)
    again = quantize(model(), BATCHES, recipe("subbyte"), progress=Cutting(0), resume=tmp_path)
    for key in ("blocks", "tuning"):
        assert again.reported[key] == whole.reported[key]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def residual() -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return nn.Sequential(*stem, Residual(), *head).eval()


@pytest.mark.parametrize("finished", [1, 3])
def test_fitting_goes_on_within_a_residual_block(finished: int, tmp_path: Path) -> None:
    whole = quantize(residual(), BATCHES, recipe("subbyte"))
    progress = Cutting(finished)
    with pytest.raises(CutError):
        quantize(residual(), BATCHES, recipe("subbyte"), resume=tmp_path, progress=progress)
    assert len(list(tmp_path.glob("*.safetensors"))) == finished
    again = quantize(residual(), BATCHES, recipe("subbyte"), resume=tmp_path)
    assert torch.equal(again(IMAGES), whole(IMAGES))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_other_work_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    quantize(model(), BATCHES, recipe("qdrop"), resume=tmp_path)
    with pytest.raises(SubbyteError, match=f"in {tmp_path} has weights 3 and this has 2"):
        quantize(model(), BATCHES, recipe("qdrop", weights=2), resume=tmp_path)
    with pytest.raises(SubbyteError, match="has seed 0 and this has 1"):
        quantize(model(), BATCHES, recipe("qdrop", seed=1), resume=tmp_path)
    with pytest.raises(SubbyteError, match="has first batch"):
        quantize(model(), [IMAGES.flip(0)], recipe("qdrop"), resume=tmp_path)
    other = model()
    with torch.no_grad():
        other[0].weight.mul_(1.5)
    with pytest.raises(SubbyteError, match="has model"):
        quantize(other, BATCHES, recipe("qdrop"), resume=tmp_path)


def test_methods_without_blocks_take_a_folder_too(tmp_path: Path) -> None:
    for name in ("range", "bias_correction"):
        plain = quantize(model(), BATCHES, Recipe(method=name))
        again = quantize(model(), BATCHES, Recipe(method=name), resume=tmp_path / name)
        assert torch.equal(plain(IMAGES), again(IMAGES))
