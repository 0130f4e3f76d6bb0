"""Images to learn from, varied alike in all inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subbyte import api
from subbyte.graph.float_model import FloatModel
from subbyte.methods.finetune.training_data import TuningData, training_data

IMAGES = torch.randn(20, 3, 32, 48, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Adds what a convolution makes of one image to another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x) + y
        return found


@pytest.fixture(scope="module")
def float_model() -> FloatModel:
    return api.capture(Two().eval(), (IMAGES[:2], IMAGES[:2]))


def last(count: int) -> torch.Tensor:
    return torch.tensor([count - 1])


def data_of(float_model: FloatModel) -> TuningData:
    found = training_data(float_model, [(part, part) for part in IMAGES.split(8)], 15, last)
    assert found is not None
    return found


def test_the_first_images_are_taken_as_they_are(float_model: FloatModel) -> None:
    found = data_of(float_model)
    assert found.count == 15
    assert found.learned.tolist() == list(range(14))
    assert all(torch.equal(x, IMAGES[[3, 14]]) for x in found.images(torch.tensor([3, 14])))


def test_multiply_adds_are_those_of_one_image(float_model: FloatModel) -> None:
    found = data_of(float_model).multiply_adds
    assert found == 32 * 48 * 3 * 3 * 3 * 3  # a place, a filter, a weight


def test_each_image_is_mirrored_or_not_and_moved_within_limits(float_model: FloatModel) -> None:
    seen, data = set(), data_of(float_model)
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        one, other = data.varied(torch.arange(2), generator)
        assert torch.equal(one, other)
        for i in range(2):
            inner = one[i, :, 4:-4, 6:-6]
            ways = [
                (flip, row, column)
                for flip, image in enumerate((IMAGES[i], IMAGES[i].flip(2)))
                for row in range(-2, 3)
                for column in range(-3, 4)
                if torch.equal(inner, image[:, 4 + row : 28 + row, 6 + column : 42 + column])
            ]
            assert len(ways) == 1
            seen.add(ways[0])
    assert {flip for flip, _, _ in seen} == {0, 1}
    assert {row for _, row, _ in seen} == set(range(-2, 3))
    assert {column for _, _, column in seen} == set(range(-3, 4))


def test_chunks_are_all_images_in_place(float_model: FloatModel) -> None:
    found = data_of(float_model)
    chunks = found.chunks(4)
    assert [len(x) for x, _ in chunks] == [4, 4, 4, 3]
    assert torch.equal(torch.cat([y for _, y in chunks]), IMAGES[:15])
    assert chunks[1][0].data_ptr() == found.inputs[0][4].data_ptr()  # not a copy


def test_images_of_several_sizes_cannot_be_learned_from(float_model: FloatModel) -> None:
    batches = [([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)],)]
    assert training_data(float_model, batches, 40, last) is None


class Flat(nn.Module):
    """Gives the numbers of all images in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x).flatten()
        return found


def test_what_gives_no_row_an_image_cannot_be_learned_from() -> None:
    own = api.capture(Flat().eval(), (IMAGES[:2],))
    assert training_data(own, [(IMAGES,)], 40, last) is None
