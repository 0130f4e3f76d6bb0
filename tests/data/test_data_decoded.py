from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from subbyte.data import Batches, DataConfig, open_data
from subbyte.data.dataset import ImageArrays, ImageFiles
from subbyte.data.decoded import Decoded
from subbyte.data.images import inspect
from subbyte.data.preprocessing import Preprocessing
from subbyte.data.transform import normalized

HOW = Preprocessing(resize=12, crop=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
SIZE = 3 * 8 * 8  # bytes of an image's pixels


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Six JPEG files of noise."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.jpg" for i in range(6)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file)
    return files


def expected(path: Path) -> torch.Tensor:
    """An image by Pillow and numpy alone: short side 12, the middle 8 × 8, normalized."""
    with Image.open(path) as image:
        height, width = 12, int(12 * 24 / 20)
        small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    left = round((width - 8) / 2)
    scaled = small[2:10, left : left + 8].astype(np.float32) / np.float32(255)
    mean, std = np.array(HOW.mean, np.float32), np.array(HOW.std, np.float32)
    return torch.from_numpy((scaled - mean) / std).permute(2, 0, 1)


def test_kept_and_decoded_images_are_the_same_to_the_bit(paths: list[Path]) -> None:
    decoded = Decoded(HOW, limit=3 * SIZE)
    batches = Batches(ImageFiles(paths, None, HOW, decoded), 4)
    for _ in range(2):  # decoded, then kept in part
        found = torch.cat([batch["inputs"] for batch in batches])
        for image, path in zip(found, paths, strict=True):
            torch.testing.assert_close(image, expected(path), rtol=0, atol=1e-6)
            assert torch.equal(image, ImageFiles([path], None, HOW)[0][0])
    assert sum(path in decoded for path in paths) == 3


def test_no_more_is_kept_than_fits(paths: list[Path]) -> None:
    decoded = Decoded(HOW, limit=2 * SIZE + SIZE - 1)
    for path in paths:
        decoded.pixels(path)
    assert [path in decoded for path in paths] == [True, True, *[False] * 4]
    assert decoded.full


def test_what_is_kept_needs_no_file_any_more(paths: list[Path]) -> None:
    decoded = Decoded(HOW)
    facts = inspect(paths, keeper=decoded)
    assert {(seen.fault, seen.size) for seen in facts.values()} == {(None, (20, 24))}
    before = [expected(path) for path in paths]
    for path in paths:
        path.unlink()
    for path, image in zip(paths, before, strict=True):
        now = normalized(decoded.pixels(path), HOW)
        torch.testing.assert_close(now, image, rtol=0, atol=1e-6)


def test_a_look_says_the_same_whether_or_not_it_keeps(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    paths[4].write_text("nothing")
    decoded = Decoded(HOW)
    assert inspect(paths, keeper=decoded) == inspect(paths)
    assert [path in decoded for path in paths] == [True, True, False, True, False, True]


def test_a_runs_images_are_decoded_once(tmp_path: Path, paths: list[Path]) -> None:
    for i, path in enumerate(paths):
        folder = tmp_path / ("train" if i < 3 else "val") / str(i % 3)
        folder.mkdir(parents=True)
        path.rename(folder / path.name)
    data = open_data(DataConfig(root=tmp_path), HOW, seed=0, batch_size=2).labelled(3, None)
    first = [torch.cat([b["inputs"] for b in side]) for side in (data.calibration, data.evaluation)]
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    sides = (data.calibration, data.evaluation.take(range(3)))
    again = [torch.cat([batch["inputs"] for batch in side]) for side in sides]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3)])
@pytest.mark.parametrize("mean", [(0.3,), (0.3, 0.4, 0.5)])
def test_arrays_give_what_pillow_makes_of_them(
    shape: tuple[int, ...], mean: tuple[float, ...]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    how = Preprocessing(mean=mean, std=mean)
    (batch,) = Batches(ImageArrays(images, list(range(5)), how), 5)
    for image, found in zip(images, batch["inputs"], strict=True):
        mode = "L" if len(mean) == 1 else "RGB"
        pixels = np.atleast_3d(np.asarray(Image.fromarray(image).convert(mode)))
        scaled = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        value = torch.tensor(mean).view(-1, 1, 1)
        assert torch.equal(found, (scaled - value) / value)
    assert batch["targets"].tolist() == [0, 1, 2, 3, 4]
