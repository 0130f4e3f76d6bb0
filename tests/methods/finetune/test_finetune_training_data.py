"""Images to learn from: varied alike in all inputs, and the float network's outputs at any time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.calibration.bias_correction import biased_layers
from subbyte.methods.finetune.parameters import Saved
from subbyte.methods.finetune.training_data import Lessons, lessons_of
from subbyte.placement.simulation import Captured

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
def rounded() -> Captured:
    torch.manual_seed(0)
    batches = [(part, part) for part in IMAGES.split(10)]
    return quantize(Two(), batches, Recipe(weights=3, activations=3, method="range"))


def last(count: int) -> torch.Tensor:
    return torch.tensor([count - 1])


def lessons(captured: Captured) -> Lessons:
    found = lessons_of(captured, [(part, part) for part in IMAGES.split(8)], 15, last)
    assert found is not None
    return found


def test_the_first_images_are_taken_as_they_are(rounded: Captured) -> None:
    found = lessons(rounded)
    assert found.count == 15
    assert found.learned.tolist() == list(range(14))
    assert all(torch.equal(x, IMAGES[[3, 14]]) for x in found.images(torch.tensor([3, 14])))


def test_multiply_adds_are_those_of_one_image(rounded: Captured) -> None:
    assert lessons(rounded).multiply_adds == 32 * 48 * 3 * 3 * 3 * 3  # a place, a filter, a weight


def test_each_image_is_mirrored_or_not_and_moved_within_limits(rounded: Captured) -> None:
    seen = set()
    for seed in range(40):
        one, other = lessons(rounded).varied(torch.arange(2), torch.Generator().manual_seed(seed))
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


def test_the_float_network_is_there_after_biases_have_changed(rounded: Captured) -> None:
    torch.manual_seed(0)
    expected = Two()(IMAGES, IMAGES)
    found = lessons(rounded)
    layers = list(biased_layers(rounded))
    assert layers
    with torch.no_grad():
        for layer in layers:
            layer.bias.add_(1)
        changed = [layer.bias.clone() for layer in layers]
        with found.in_float(rounded):
            assert torch.allclose(rounded(IMAGES, IMAGES), expected, atol=1e-6)
    assert all(torch.equal(a.bias, b) for a, b in zip(layers, changed, strict=True))
    found.own.put_back()
    assert not torch.equal(layers[0].bias, changed[0])


def test_saved_grids_are_put_back(rounded: Captured) -> None:
    saved = Saved(rounded)
    with torch.no_grad():
        before = rounded(IMAGES, IMAGES)
        for _, quantizer in rounded.quantizers():
            quantizer.scale.mul_(2)
        assert not torch.equal(rounded(IMAGES, IMAGES), before)
        saved.put_back()
        assert torch.equal(rounded(IMAGES, IMAGES), before)


def test_images_of_several_sizes_are_no_lessons(rounded: Captured) -> None:
    batches = [([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)],)]
    assert lessons_of(rounded, batches, 40, last) is None
