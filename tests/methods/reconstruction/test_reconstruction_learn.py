"""Learning one block: the best rounding there is, and nothing where the loss is NaN."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from placed import placed
from simulations import with_ranges, with_weights
from subbyte import Recipe
from subbyte.graph.blocks import Block
from subbyte.methods.common.activation_cache import Values
from subbyte.methods.common.simulated_blocks import blocks_of, layers_of
from subbyte.methods.reconstruction.learn import TrainingData, learn
from subbyte.methods.reconstruction.settings import LearningSettings
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.placement.simulation import Simulation

# Inputs that hang together, so that the nearest integers are not the best ones.
MIXING = torch.eye(6) + 0.5
IMAGES = torch.randn(200, 6, generator=torch.Generator().manual_seed(1)) @ MIXING


def linear() -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(6, 2)


def settings(**fields: object) -> LearningSettings:
    given = {"steps": 1500, "batch": 32, "regularizer": 0.01, "fisher": False, "cache_memory": 1.0}
    given["rounding_rate"] = 0.01
    return LearningSettings("learning", **{**given, **fields})  # type: ignore[arg-type]


def opened(activations: int | None = None) -> tuple[Simulation, Block]:
    recipe = Recipe(weights=3, activations=activations, first_last=None)
    simulation = placed(nn.Sequential(linear()).eval(), (IMAGES,), recipe)
    if activations is None:
        simulation = with_weights(simulation)
    else:
        simulation = with_ranges(simulation, [(IMAGES,)])
    (block,) = blocks_of(simulation, "")
    return simulation, block


def data_of(images: torch.Tensor, targets: torch.Tensor) -> TrainingData:
    return TrainingData([Values(images, images)], [targets])


def float_outputs() -> torch.Tensor:
    with torch.no_grad():
        return linear()(IMAGES)


def error(weight: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each output with a weight, (outputs,), in float64."""
    exact = linear().weight.detach().double()
    return (IMAGES.double() @ (weight.double() - exact).T).square().mean(0)


def least_error(simulation: Simulation) -> torch.Tensor:
    """The least error of each output, over all ways to round its six weights up or down."""
    ((tensor, quantizer),) = simulation.weights()
    weight, spec = simulation.weight(tensor), quantizer.spec
    scale, zero_point = quantizer.scale[:, None], quantizer.zero_point[:, None]
    down = (weight / scale).floor() + zero_point
    ways = torch.tensor(list(itertools.product((0, 1), repeat=6)))
    each = (down + ways[:, None]).clamp(spec.low, spec.high) - zero_point
    errors = [error(integers * scale) for integers in each]
    return torch.stack(errors).min(0).values


@pytest.mark.parametrize("layers", [False, True])  # by steps on some images, or in closed form
def test_the_rounding_is_the_best_of_all(layers: bool) -> None:
    simulation, block = opened()
    (unit,) = layers_of(simulation, block) if layers else [block]
    ((_, quantizer),) = simulation.weights()
    nearest, best = error(quantizer(linear().weight)), least_error(simulation)
    assert float(best.sum()) < 0.5 * float(nearest.sum())  # there is something to learn
    data = data_of(IMAGES, float_outputs())
    generator = torch.Generator().manual_seed(0)
    assert learn(simulation, unit, data, [], settings(layers=layers), generator)
    found = error(quantizer(linear().weight))
    assert float(found.sum()) <= 1.1 * float(best.sum())


def activations_of(simulation: Simulation) -> list[FakeQuantize]:
    return [quantizer for _, quantizer in simulation.activations()]


def test_a_step_size_that_is_too_wide_is_narrowed_and_the_weights_stay() -> None:
    simulation, block = opened(activations=4)
    ((_, weights),) = simulation.weights()
    integers = weights.integers
    (quantizer,) = activations_of(simulation)
    best = float(quantizer.scale)
    params = quantizer.params
    assert params is not None
    quantizer.put(type(params)(params.scale * 1.5, params.zero_point))
    data = data_of(IMAGES, float_outputs())
    asked = settings(rounding=False, step_sizes=True, step_size_rate=best / 100, steps=300)
    assert learn(simulation, block, data, [quantizer], asked, torch.Generator().manual_seed(0))
    assert float(quantizer.scale) < 1.3 * best
    assert weights.integers is integers


@pytest.mark.parametrize("layers", [False, True])
def test_a_block_whose_loss_is_nan_is_as_it_was(layers: bool) -> None:
    simulation, block = opened(activations=None if layers else 4)
    (unit,) = layers_of(simulation, block) if layers else [block]
    before = {key: value.clone() for key, value in simulation.state_dict().items()}
    targets = float_outputs()
    targets[0, 0] = math.nan
    asked = settings(layers=layers, step_sizes=not layers, steps=50)
    well = learn(
        simulation,
        unit,
        data_of(IMAGES, targets),
        activations_of(simulation),
        asked,
        torch.Generator().manual_seed(0),
    )
    assert not well
    now = simulation.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in before.items())
    for tensor, quantizer in simulation.quantizers():
        if tensor.role == "weight":
            assert torch.equal(quantizer(torch.zeros(2, 6)), quantizer.quantize(torch.zeros(2, 6)))


def test_what_is_dropped_reads_the_float_input_at_random() -> None:
    """With nothing kept, the quantized inputs do not matter; with all kept, the float ones."""
    results = []
    for drop, exact, quantized in (
        (1.0, IMAGES, IMAGES),
        (1.0, IMAGES, torch.zeros_like(IMAGES)),
        (0.0, IMAGES, IMAGES),
        (0.0, torch.zeros_like(IMAGES), IMAGES),
    ):
        simulation, block = opened(activations=4)
        data = TrainingData([Values(exact, quantized)], [float_outputs()])
        asked = settings(drop=drop, steps=100, rounding_rate=0.1)
        learn(simulation, block, data, [], asked, torch.Generator().manual_seed(0))
        ((_, weights),) = simulation.weights()
        assert weights.integers is not None
        results.append(weights.integers)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[2], results[3])
