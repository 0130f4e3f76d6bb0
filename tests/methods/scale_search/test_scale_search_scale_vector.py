"""Grids as a vector: what each number moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from subbyte import Recipe, api
from subbyte.calibration.observe import calibrate
from subbyte.methods.scale_search.scale_vector import Sizes
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent

IMAGES = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))


def captured(**fields: object) -> Captured:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    found = api.prepare(model, (IMAGES,), Recipe(weights=4, activations=4, **fields))
    calibrate(found, [(IMAGES,)], Silent())
    return found


def test_scale_moves_all_channels_alike_and_keeps_zero_points() -> None:
    model = captured()
    with Sizes(model, "scale") as sizes:
        before = {grid: (grid.scale.clone(), grid.zero_point.clone()) for grid in sizes.grids}
        sizes.apply(np.full(len(sizes.point), np.log(1.5)))
        for grid, (scale, zero_point) in before.items():
            assert torch.allclose(grid.scale, 1.5 * scale)
            assert torch.equal(grid.zero_point, zero_point)
        sizes.apply(np.zeros(len(sizes.point)))
        assert all(torch.equal(grid.scale, scale) for grid, (scale, _) in before.items())


def test_only_grids_of_less_than_8_bits_move_where_there_are_some() -> None:
    protected = Sizes(captured(), "scale")
    assert [grid.spec.bits for grid in protected.grids] == [4, 4]  # those of the middle layer
    assert {grid.spec.bits for grid in Sizes(captured(first_last=None), "scale").grids} == {4}
    eight = captured(first_last=None).recipe.model_copy(update={"weights": 8, "activations": 8})
    assert eight.weights == 8
    every = api.prepare(nn.Sequential(nn.Linear(4, 2)).eval(), (IMAGES,), eight)
    assert len(Sizes(every, "scale").grids) == 2


def test_clip_moves_each_end_for_itself() -> None:
    model = captured(first_last=None)
    first = next(q for _, q in model.quantizers("activation"))  # of the input: two ends
    with Sizes(model, "clip") as sizes:
        ends = [entry.end for entry in sizes.entries if entry.grid is first]
        assert ends == ["low", "high"]
        start = sizes.starts[first]
        point = np.zeros(len(sizes.point))
        point[next(i for i, e in enumerate(sizes.entries) if e.grid is first)] = np.log(0.5)
        sizes.apply(point)
        low, high = start.low.item() / 2, start.high.item()
        assert first.scale.item() == pytest.approx((high - low) / 15)
        assert first.zero_point.item() == round(-low / first.scale.item())


def test_symmetric_grids_and_ranges_with_one_end_have_one_number() -> None:
    model = captured(first_last=None, symmetric_weights=True)
    sizes = Sizes(model, "clip")
    second = [q for _, q in model.quantizers("activation")][1]  # behind a ReLU
    for grid in [second, *sizes.weights]:
        assert [entry.end for entry in sizes.entries if entry.grid is grid] == ["both"]


def test_weights_are_held_on_the_grids_they_have_now() -> None:
    model = captured()
    with Sizes(model, "scale") as sizes:
        grid = next(iter(set(sizes.weights) & set(sizes.grids)))
        sizes.apply(np.full(len(sizes.point), 0.3))
        assert grid.instead is not None
        assert torch.equal(grid.instead(torch.zeros(1)), grid.quantize(sizes.weights[grid]))
