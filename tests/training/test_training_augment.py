from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from subbyte.models.ssd import Settings
from subbyte.training.augment import Augmented, EpochBatches, augmentation, read

SETTINGS = Settings((0.2, 0.2, 0.2), (1, 1, 1), 0.01, 0.5, size=120)


class Squares:
    """Dark images of 80 × 100 with one bright rectangle each, and its box."""

    classes = ("square",)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = torch.zeros(3, 80, 100, dtype=torch.uint8)
        x, y = 10 + 3 * index, 20 + index
        image[:, y : y + 30, x : x + 40] = 255
        return image, {
            "boxes": torch.tensor([[x, y, x + 40, y + 30], [0, 0, 5, 5]]),
            "labels": torch.tensor([1, 1]),
            "iscrowd": torch.tensor([0, 1]),
        }


def _augmented(seed: int = 0, **changes: Any) -> Augmented:
    options: dict[str, Any] = {
        "distort": False,
        "zoom_out": 3.0,
        "crop": True,
        "flip": True,
        **changes,
    }
    return Augmented(Squares(4), augmentation(SETTINGS, **options), seed)


def test_boxes_stay_on_their_objects() -> None:
    for place in itertools.product(range(8), range(4)):
        image, target = _augmented()[place]
        assert image.shape == (3, 120, 120)
        assert type(image) is Tensor
        assert target["labels"].tolist() == [1]
        (rows,), (columns,) = ((image[0] > 0.6).any(dim=d).nonzero(as_tuple=True) for d in (1, 0))
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        torch.testing.assert_close(
            target["boxes"], torch.tensor([seen], dtype=torch.float32), rtol=0, atol=2.5
        )


def test_zooming_out_fills_with_the_mean() -> None:
    corners = [_augmented(crop=False)[epoch, 0][0][:, 0, 0] for epoch in range(12)]
    values = {round(value, 3) for corner in corners for value in corner.tolist()}
    assert values == {0.0, 0.2}  # the image itself, or what it was put into


def test_an_item_follows_from_seed_epoch_and_index_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = _augmented(distort=True)[2, 1][0]
    assert torch.equal(torch.random.get_rng_state(), before)
    data = _augmented(distort=True)
    assert not torch.equal(data[0, 1][0], first)
    assert torch.equal(data[2, 1][0], first)
    assert not torch.equal(_augmented(seed=1, distort=True)[2, 1][0], first)
    assert first.min() >= 0
    assert first.max() <= 1


def test_images_without_objects_are_taken_as_they_are() -> None:
    class Empty(Squares):
        def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
            return torch.rand(3, 40, 60), {
                "boxes": torch.zeros(0, 4),
                "labels": torch.zeros(0, dtype=torch.int64),
            }

    steps = augmentation(SETTINGS, distort=True, zoom_out=4.0, crop=True, flip=True)
    image, target = Augmented(Empty(1), steps, 0)[0, 0]
    assert image.shape == (3, 120, 120)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_crowds_are_left_out_and_pixels_are_from_0_to_1() -> None:
    image, boxes, labels = read(Squares(1), 0)
    assert image.max() == 1
    assert boxes.tolist() == [[10, 20, 50, 50]]
    assert labels.tolist() == [1]


def test_without_augmentation_only_the_size_changes() -> None:
    steps = augmentation(SETTINGS, distort=False, zoom_out=1.0, crop=False, flip=False)
    image, target = Augmented(Squares(4), steps, 0)[3, 2]
    before, boxes, _ = read(Squares(4), 2)
    torch.testing.assert_close(image, v2.functional.resize(before, [120, 120], antialias=False))
    torch.testing.assert_close(target["boxes"], boxes * torch.tensor([1.2, 1.5, 1.2, 1.5]))


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_batches_go_on_as_if_they_had_never_stopped(start: int) -> None:
    whole = list(EpochBatches(11, 3, 3, seed=5))
    assert len(whole) == 9
    assert list(EpochBatches(11, 3, 3, seed=5, start=start)) == whole[start:]
    assert len(EpochBatches(11, 3, 3, seed=5, start=start)) == 9 - start
    for epoch in range(3):
        places = [place for batch in whole[3 * epoch : 3 * epoch + 3] for place in batch]
        assert {place[0] for place in places} == {epoch}
        assert len({place[1] for place in places}) == 9
    orders = [[index for _, index in batch] for batch in whole]
    assert orders[:3] != orders[3:6]


def test_fewer_images_than_a_batch_are_one() -> None:
    batches = EpochBatches(2, 32, 4, seed=0)
    assert batches.steps == 4
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]


def test_processes_share_each_batch() -> None:
    whole = list(EpochBatches(11, 5, 2, seed=0))
    parts = [list(EpochBatches(11, 5, 2, seed=0, rank=rank, ranks=2)) for rank in range(2)]
    assert [len(batch) for batch in parts[1]] == [2] * len(whole)
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted([*first, *second]) == sorted(batch)
