from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from detection_readers import read_coco
from PIL import Image

from subbyte.data.batches import check_calibration, read_batch
from subbyte.data.detection import DetectionBatches, Listing, of_listing

if TYPE_CHECKING:
    from .conftest import Draw, Refuses, WriteCoco


@pytest.fixture
def listing(tmp_path: Path, draw: Draw, write_coco: WriteCoco) -> Listing:
    sizes = {f"{i}.png": (40 + i, 30) for i in range(5)}
    for seed, (name, size) in enumerate(sizes.items()):
        draw(tmp_path / name, seed, size=size)
    rows = [(i, 3, [i, 0, 10, 10]) for i in range(1, 5)]
    return read_coco(tmp_path, write_coco(tmp_path / "i.json", sizes, rows))


def test_items_are_as_torchvisions_detectors_take_them(listing: Listing) -> None:
    dataset = of_listing(listing)
    assert len(dataset) == 5
    assert dataset.classes == ("cat", "dog")
    image, target = dataset[0]
    assert image.dtype == torch.float32
    with Image.open(listing.paths[0]) as stored:
        expected = np.asarray(stored).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-7)
    assert set(target) == {"boxes", "labels", "image_id", "area", "iscrowd"}
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64
    assert target["boxes"].tolist() == [[1, 0, 11, 10]]
    assert target["area"].tolist() == [100]
    assert dataset[4][1]["boxes"].shape == (0, 4)
    target["boxes"] += 1  # what is done to a target stays there
    assert dataset[0][1]["boxes"].tolist() == [[1, 0, 11, 10]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "I;16"])
def test_images_of_other_modes_are_rgb(listing: Listing, mode: str) -> None:
    path = listing.paths[0].with_suffix(".tif")
    if mode == "I;16":
        Image.fromarray(np.full((30, 40), 65535, np.uint16)).save(path)
    else:
        Image.new("RGB", (40, 30), "white").convert(mode).save(path)
    image, _ = of_listing(Listing((path,), listing.objects[:1], listing.classes))[0]
    assert image.shape == (3, 30, 40)
    assert (image == 1).all()


def test_batches_are_lists_and_can_be_walked_again(listing: Listing) -> None:
    batches = DetectionBatches(of_listing(listing), 2, limit=3)
    assert (batches.images, len(batches), len(batches.objects)) == (3, 2, 3)
    check_calibration(batches)
    for _ in range(2):
        walked = list(batches)
        assert [len(batch["inputs"]) for batch in walked] == [2, 1]
        assert [image.shape[-1] for batch in walked for image in batch["inputs"]] == [40, 41, 42]
        assert [target["image_id"] for batch in walked for target in batch["targets"]] == [1, 2, 3]
    read = read_batch(walked[0])
    assert read.size == 2
    assert isinstance(read.args[0], list)
    unlabelled = DetectionBatches(of_listing(listing), 2, labelled=False)
    assert set(next(iter(unlabelled))) == {"inputs"}


def test_a_broken_file_is_named(listing: Listing, refuses: Refuses) -> None:
    listing.paths[1].write_bytes(listing.paths[1].read_bytes()[:500])
    with refuses(f"image {listing.paths[1]} is cut off"):
        list(DetectionBatches(of_listing(listing), 2))
    for keys in ({"batch_size": 0}, {"batch_size": 1, "limit": 0}):
        with refuses("must be at least 1"):
            DetectionBatches(of_listing(listing), **keys)


def test_some_of_the_images_alone(listing: Listing) -> None:
    whole = DetectionBatches(of_listing(listing), 2)
    some = whole.take([4, 1])
    assert some.images == 2
    assert [found.image_id for found in some.objects] == [5, 2]
    (batch,) = some
    for i, image in zip([4, 1], batch["inputs"], strict=True):
        assert torch.equal(image, whole.dataset[i][0])


def test_other_labels(listing: Listing) -> None:
    classes = [f"class {i}" for i in range(20)]
    other = of_listing(listing).relabelled({1: 17, 2: 18}, classes)
    assert other.objects[0].labels.tolist() == [17]
    assert other.classes == tuple(classes)
