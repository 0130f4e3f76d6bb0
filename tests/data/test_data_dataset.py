from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from subbyte.data import Batches, read_image_tensor
from subbyte.data.dataset import ImageArrays, ImageFiles, check_sizes
from subbyte.data.images import inspect
from subbyte.data.preprocessing import Preprocessing, output_size
from subbyte.data.transform import transform

if TYPE_CHECKING:
    from .conftest import Draw, Refuses

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
GREY = Preprocessing(mean=(0.0,), std=(1.0,))


def arrays(count: int, labels: bool = True) -> ImageArrays:
    images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(3, 2)
    return ImageArrays(images, list(range(count)) if labels else None, GREY)


def test_items_are_preprocessed_images_and_labels(tmp_path: Path, draw: Draw) -> None:
    path = draw(tmp_path / "a.png", seed=5)
    tensor, label = ImageFiles([path], [4], PLAIN)[0]
    pixels = np.random.default_rng(5).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, torch.from_numpy(pixels / 255).float().permute(2, 0, 1))
    assert label == 4
    assert ImageFiles([path], None, PLAIN)[0][1] is None


def test_one_image_for_predict(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    path = draw(tmp_path / "a.png")
    small = Preprocessing(resize=8, crop=6)
    tensor = read_image_tensor(path, small)
    assert tensor.shape == (1, 3, 6, 6)
    assert torch.equal(tensor[0], transform(small)(Image.open(path)))
    with refuses("does not exist"):
        read_image_tensor(tmp_path / "b.png", small)


def test_resize_to_the_size_it_has_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    resized = Preprocessing(resize=(8, 8), mean=(0.0,), std=(1.0,))
    tensor, _ = ImageArrays(image, None, resized)[0]
    torch.testing.assert_close(tensor, torch.from_numpy(image / 255).float())


@given(st.integers(1, 40), st.integers(1, 50), st.one_of(st.none(), st.integers(1, 50)))
def test_batches_hold_every_image_once_in_order(
    count: int, batch_size: int, limit: int | None
) -> None:
    batches = Batches(arrays(count), batch_size, limit)
    walked = list(batches)
    expected = min(count, limit or count)
    assert batches.images == expected
    assert len(batches) == len(walked)
    assert all(len(batch["inputs"]) == batch_size for batch in walked[:-1])
    assert torch.cat([batch["targets"] for batch in walked]).tolist() == list(range(expected))
    inputs = torch.cat([batch["inputs"] for batch in walked])
    assert (inputs[:, 0, 0, 0] * 255).round().tolist() == list(range(expected))


def test_batches_can_be_walked_again_left_early_and_pickled() -> None:
    batches = Batches(arrays(5), 2)
    next(iter(batches))
    first = [batch["inputs"] for batch in batches]
    for again in (batches, pickle.loads(pickle.dumps(batches))):
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one, other["inputs"])


def test_labels_can_be_given_later() -> None:
    (batch,) = Batches(arrays(3, labels=False), 8).labelled([5, 6, 7])
    assert batch["targets"].tolist() == [5, 6, 7]


def test_targets_only_if_known() -> None:
    (batch,) = Batches(arrays(3), 8)
    assert batch["targets"].dtype == torch.int64
    (batch,) = Batches(arrays(3, labels=False), 8)
    assert set(batch) == {"inputs"}


@pytest.mark.parametrize(("batch_size", "limit"), [(0, None), (-1, None), (2, 0)])
def test_numbers_below_one(batch_size: int, limit: int | None, refuses: Refuses) -> None:
    with refuses("must be at least 1"):
        Batches(arrays(3), batch_size, limit)


def test_mixed_sizes_name_both_files(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    paths = [
        draw(tmp_path / "a.png", size=(12, 10)),
        draw(tmp_path / "b.png", size=(12, 10)),
        draw(tmp_path / "c.png", size=(9, 10)),
    ]
    told = (
        f"{paths[0]} is 12 pixels wide and 10 high, {paths[2]} is 9 wide and 10 high, and a batch "
        "needs one size: give data.preprocessing.resize and data.preprocessing.crop"
    )
    with refuses(told):
        list(Batches(ImageFiles(paths, None, PLAIN), 3))
    facts = inspect(paths)
    with refuses(told):
        check_sizes(paths, facts, PLAIN, 3)
    check_sizes(paths, facts, PLAIN, 2)
    assert len(list(Batches(ImageFiles(paths, None, PLAIN), 2))) == 2
    check_sizes(paths, facts, Preprocessing(resize=(4, 4)), 3)
    check_sizes(paths, facts, Preprocessing(crop=4), 3)
    with refuses("needs one size"):
        check_sizes(paths, facts, Preprocessing(resize=5), 3)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.one_of(st.none(), st.integers(1, 20), st.tuples(st.integers(1, 20), st.integers(1, 20))),
    st.one_of(st.none(), st.integers(1, 20), st.tuples(st.integers(1, 20), st.integers(1, 20))),
)
def test_output_size_is_what_the_transform_gives(
    size: tuple[int, int],
    resize: int | tuple[int, int] | None,
    crop: int | tuple[int, int] | None,
) -> None:
    preprocessing = Preprocessing(resize=resize, crop=crop)
    tensor = transform(preprocessing)(Image.new("RGB", (size[1], size[0])))
    assert output_size(size, preprocessing) == tuple(tensor.shape[1:])


def test_images_are_decoded_only_when_their_batch_is_due(tmp_path: Path, draw: Draw) -> None:
    paths = [draw(tmp_path / f"{i}.png") for i in range(2)] + [tmp_path / "missing.png"]
    walk = iter(Batches(ImageFiles(paths, None, PLAIN), 2))
    assert next(walk)["inputs"].shape == (2, 3, 10, 12)
