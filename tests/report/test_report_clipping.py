from __future__ import annotations

import pytest
import torch
from torch import nn

import subbyte
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import Clipping
from subbyte.report import clipping


def counted(values: int, clipped: int) -> Clipping:
    made = Clipping()
    made.add(torch.arange(values) >= clipped)
    return made


@pytest.fixture(scope="module")
def model() -> Captured:
    """One convolution of ones with 8-bit grids, calibrated on [−1, 1]; and a linear layer."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    images = torch.linspace(-1, 1, 40).reshape(10, 1, 2, 2)
    return subbyte.quantize(network, [images], subbyte.Recipe(ranges="minmax"))


def index(model: Captured, layer: str) -> int:
    roles = [(tensor.layer, tensor.role) for tensor in model.tensors]
    return roles.index((layer, "activation"))


def test_values_beyond_the_range_are_counted(model: Captured) -> None:
    images = torch.tensor([-5.0, -1.2, -0.9, 0.0, 0.3, 0.99, 1.0, 1.5, 2.0, 0.0, 0.0, 0.0])
    with clipping.counting(model) as counts:
        for _ in range(2):  # batches add up
            model(images.reshape(3, 1, 2, 2))
    assert len(counts) == len(model.tensors) == 4
    first = counts[index(model, "0")]
    assert (first.values, int(first.clipped)) == (24, 8)
    assert clipping.share(first) == pytest.approx(1 / 3)
    weights = [c for c, t in zip(counts, model.tensors, strict=True) if t.role == "weight"]
    assert [clipping.share(count) for count in weights] == [None, None]
    total = sum(count.values for count in counts)
    assert total == 24 + 2 * 3 * 8
    clipped = sum(int(count.clipped) for count in counts)
    assert clipping.share(*counts) == clipped / total


def test_counting_changes_no_output_and_ends(model: Captured) -> None:
    images = 2 * torch.randn(5, 1, 2, 2)
    before = model(images)
    with clipping.counting(model) as counts:
        assert torch.equal(model(images), before)
    values = sum(count.values for count in counts)
    model(images)
    assert sum(count.values for count in counts) == values > 0


def test_a_model_without_grids_counts_nothing() -> None:
    with clipping.counting(nn.Identity()) as counts:
        assert counts == []
    assert clipping.share() is None


def test_a_layer_that_clips_much_more_is_told(model: Captured) -> None:
    def note(first: tuple[float, float], last: tuple[float, float]) -> str | None:
        shares = {index(model, "0"): first, index(model, "3"): last}
        sides = [
            [counted(*((1000, round(1000 * shares[i][side])) if i in shares else (0, 0)))
             for i in range(4)]
            for side in range(2)
        ]  # fmt: skip
        return clipping.note(model, *sides)

    assert note((0.4, 0.001), (0.0, 0.0)) == (
        "at 0, 40.0% of the values are clipped on the evaluation images and 0.1% on those of "
        "calibration: calibrate on images like the evaluated ones"
    )
    assert "at 3, 50.0%" in str(note((0.4, 0.001), (0.5, 0.2)))
    assert "20.0% on those of calibration (1 more such tensor)" in str(
        note((0.4, 0.001), (0.5, 0.2))
    )
    assert note((0.3, 0.2), (0.0, 0.0)) is None  # clipped on purpose, on both
    assert note((0.005, 0.0), (0.0, 0.3)) is None  # hardly any, and fewer
