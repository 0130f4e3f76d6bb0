"""Scales as a vector: what each number moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from placed import placed
from simulations import with_ranges
from subbyte import Recipe
from subbyte.methods.scale_search.scale_vector import ScaleVector
from subbyte.placement.simulation import Simulation

IMAGES = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))


def simulated(**fields: Any) -> Simulation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    recipe = Recipe(**{"weights": 4, "activations": 4, **fields})
    return with_ranges(placed(model, (IMAGES,), recipe), [(IMAGES,)])


def test_scale_moves_all_channels_alike_and_keeps_zero_points() -> None:
    simulation = simulated()
    vector = ScaleVector(simulation, "scale")
    before = {key: simulation.quantizer(key).params for key in vector.tensors}
    vector.apply(np.full(len(vector.point), np.log(1.5)))
    for key, params in before.items():
        assert params is not None
        assert torch.allclose(simulation.quantizer(key).scale, 1.5 * params.scale)
        assert torch.equal(simulation.quantizer(key).zero_point, params.zero_point)
    vector.apply(np.zeros(len(vector.point)))
    for key, params in before.items():
        assert params is not None
        assert torch.equal(simulation.quantizer(key).scale, params.scale)


def test_only_tensors_of_less_than_8_bits_move_where_there_are_some() -> None:
    protected = ScaleVector(simulated(), "scale")
    assert list(protected.tensors) == ["2.activation", "2.weight"]  # of the middle layer
    every = ScaleVector(simulated(first_last=None), "scale")
    assert len(every.tensors) == 6
    eight = ScaleVector(simulated(weights=8, activations=8, first_last=None), "scale")
    assert len(eight.tensors) == 6


def test_clip_moves_each_end_for_itself() -> None:
    simulation = simulated(first_last=None)
    key = "0.activation"  # the input: two ends
    vector = ScaleVector(simulation, "clip")
    assert [entry.end for entry in vector.entries if entry.key == key] == ["low", "high"]
    start = vector.starts[key]
    point = np.zeros(len(vector.point))
    point[next(i for i, e in enumerate(vector.entries) if e.key == key)] = np.log(0.5)
    vector.apply(point)
    low, high = start.low.item() / 2, start.high.item()
    found = simulation.quantizer(key)
    assert found.scale.item() == pytest.approx((high - low) / 15)
    assert found.zero_point.item() == round(-low / found.scale.item())


def test_symmetric_tensors_and_ranges_with_one_end_have_one_number() -> None:
    simulation = simulated(first_last=None, symmetric_weights=True)
    vector = ScaleVector(simulation, "clip")
    weights = [tensor.key for tensor in simulation.placement.of_role("weight")]
    for key in ["2.activation", *weights]:  # behind a ReLU
        assert [entry.end for entry in vector.entries if entry.key == key] == ["both"]


def test_weights_are_rounded_anew_to_the_scales_they_have_now() -> None:
    simulation = simulated()
    vector = ScaleVector(simulation, "scale")
    vector.apply(np.full(len(vector.point), 0.3))
    weight = simulation.weight(vector.tensors["2.weight"])
    found = simulation.quantizer("2.weight")
    scale, zero_point = found.scale[:, None].double(), found.zero_point[:, None]
    integers = (weight.double() / scale).round() + zero_point
    expected = (integers.clamp(found.spec.low, found.spec.high) - zero_point) * scale
    assert torch.allclose(found(weight).double(), expected, atol=1e-6)
