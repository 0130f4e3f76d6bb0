"""From block to block: what each reads, which one falls back, what is kept and reported."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from placed import placed
from residual import Residual
from simulations import with_ranges, with_weights
from subbyte import Recipe
from subbyte.methods.common.context import Context
from subbyte.methods.reconstruction.blockwise import reconstruct
from subbyte.methods.reconstruction.settings import LearningSettings
from subbyte.placement.simulation import Simulation

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) + 0.5


def residual() -> nn.Sequential:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(
        stem, nn.ReLU(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()


def perceptron(factor: float = 1.0) -> nn.Sequential:
    """Two linear layers; the first gives so many times as much, the second takes it back."""
    torch.manual_seed(4)
    made = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2, bias=False)).eval()
    with torch.no_grad():
        for parameter in made[0].parameters():
            parameter.mul_(factor)
        made[2].weight.div_(factor)
    return made


def settings(**fields: Any) -> LearningSettings:
    given = {"steps": 40, "batch": 16, "regularizer": 0.01, "fisher": False, "cache_memory": 1.0}
    return LearningSettings("learning", **{**given, **fields})


def simulated(module: nn.Module, images: torch.Tensor, **fields: Any) -> Simulation:
    given = {"weights": 2, "activations": None, "first_last": None, **fields}
    simulation = placed(module, (images,), Recipe(**given))
    if given["activations"] is None:
        return with_weights(simulation)
    return with_ranges(simulation, [(images,)])


def integers(simulation: Simulation, key: str) -> torch.Tensor:
    params = simulation.quantizer(key).params
    assert params is not None
    assert params.integers is not None
    return params.integers


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"layers": True}, {"fisher": True}])
def test_the_network_gives_more_of_what_it_gave_in_float(fields: dict[str, Any]) -> None:
    simulation = simulated(residual(), IMAGES)
    with torch.no_grad():
        expected = residual()(IMAGES)
        before = (simulation(IMAGES) - expected).square().mean()
    asked = settings(steps=300, rounding_rate=0.01, **fields)
    notes = reconstruct(simulation, [(IMAGES[:30],), (IMAGES[30:],)], asked, Context())
    with torch.no_grad():
        after = (simulation(IMAGES) - expected).square().mean()
    assert after < 0.8 * before
    assert [note["block"] for note in notes] == ["0", "2.first", "5"]
    assert not any(note["fell_back"] for note in notes)


def test_what_stands_behind_a_block_reads_what_that_block_gives() -> None:
    """Its rounding is the best one for these values, and not for those of the float network."""
    coarse = {"0": {"weights": 2}}  # so that what it gives is far from what it gave in float
    simulation = simulated(perceptron(), ROWS, weights=3, overrides=coarse)
    asked = settings(steps=1500, layers=True, rounding_rate=0.01, regularizer=1e-4)
    reconstruct(simulation, [(ROWS,)], asked, Context())
    quantized = perceptron()
    with torch.no_grad():
        for tensor, quantizer in simulation.weights():
            layer = quantized.get_submodule(tensor.layer)
            layer.weight.copy_(quantizer(simulation.weight(tensor)))
        read, in_float = quantized[:2](ROWS).double(), perceptron()[:2](ROWS).double()
        weight = perceptron()[2].weight.double()
        targets = in_float @ weight.T
    params = simulation.quantizer("2.weight").params
    assert params is not None
    scale, zero_point = params.scale[:, None].double(), params.zero_point[:, None]
    down = (weight / scale).floor() + zero_point
    ways = torch.tensor(list(itertools.product((0, 1), repeat=6)))
    every = ((down + ways[:, None]).clamp(0, 7) - zero_point) * scale  # (ways, outputs, inputs)

    def errors(x: torch.Tensor) -> torch.Tensor:
        return (every @ x.T - targets.T).square().mean(2)  # (ways, outputs)

    found = (quantized[2].weight.double() @ read.T - targets.T).square().mean(1).sum()
    best = errors(read).min(0).values.sum()
    by_float = errors(read).gather(0, errors(in_float).argmin(0)[None]).sum()
    assert by_float > 1.2 * best  # it makes a difference what it reads
    assert found <= 1.1 * best


def test_a_block_whose_loss_is_no_number_is_left_and_the_others_are_learned() -> None:
    module = perceptron(1e22)  # squared errors of the first layer are infinite in float32
    simulation = simulated(module, ROWS, weights=3, ranges="minmax")
    nearest = [integers(simulation, key).clone() for key in ("0.weight", "2.weight")]
    asked = settings(steps=500, rounding_rate=0.05)
    notes = reconstruct(simulation, [(ROWS,)], asked, Context())
    assert [note["fell_back"] for note in notes] == [True, False]
    assert notes[0]["why"] == "its loss was not a number"
    assert torch.equal(integers(simulation, "0.weight"), nearest[0])
    assert not torch.equal(integers(simulation, "2.weight"), nearest[1])


@pytest.mark.slow
def test_finished_blocks_come_from_the_folder(tmp_path: Path) -> None:
    asked, context = settings(step_sizes=True, drop=0.5), Context(resume=tmp_path)
    first = simulated(residual(), IMAGES, activations=4)
    notes = reconstruct(first, [(IMAGES,)], asked, context)
    again = simulated(residual(), IMAGES, activations=4)
    assert reconstruct(again, [(IMAGES,)], asked, context) == notes  # the seconds too
    expected = first.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())


@pytest.mark.slow
def test_the_seed_decides_what_is_drawn() -> None:
    results = []
    for seed in (0, 0, 1):
        simulation = simulated(residual(), IMAGES, activations=4)
        asked = settings(rounding_rate=0.05, step_sizes=True, drop=0.5)
        reconstruct(simulation, [(IMAGES,)], asked, Context(seed=seed))
        results.append(integers(simulation, "2.second.weight"))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
