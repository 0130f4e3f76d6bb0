"""A layer's squared error from sums over all images, against the layer itself in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from placed import placed
from simulations import with_weights
from subbyte import Recipe
from subbyte.graph.blocks import Block
from subbyte.methods.common.activation_cache import Values
from subbyte.methods.common.simulated_blocks import blocks_of, layers_of
from subbyte.methods.reconstruction.quadratic import quadratic_of
from subbyte.placement.simulation import Simulation

IMAGES = 3 + torch.randn(20, 6, 9, 9, generator=torch.Generator().manual_seed(0))
LAYERS = {
    "padded": nn.Conv2d(6, 4, 3, padding=1),
    "strided": nn.Conv2d(6, 4, (3, 2), stride=2, padding=(0, 1), bias=False),
    "grouped": nn.Conv2d(6, 9, 3, groups=3, dilation=2),
    "depthwise": nn.Conv2d(6, 6, 3, groups=6),
    "pointwise": nn.Conv2d(6, 5, 1),
    "linear": nn.Linear(9, 5),
}


def unit_of(layer: nn.Module, *behind: nn.Module) -> tuple[Simulation, Block]:
    model = nn.Sequential(layer, *behind).eval()
    simulation = with_weights(placed(model, (IMAGES,), Recipe()))
    (block,) = blocks_of(simulation, "")
    (unit,) = layers_of(simulation, block)
    return simulation, unit


@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradient_are_those_of_the_layer_on_all_images(name: str) -> None:
    layer = LAYERS[name]
    simulation, unit = unit_of(layer)
    quantized = IMAGES + 0.3 * torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        target = layer(IMAGES)
    inputs = [Values(IMAGES, quantized)]
    error = quadratic_of(simulation, unit, inputs, [target], steps=1000, images=20)
    assert error is not None
    exact = nn.utils.skip_init(type(layer), **arguments(layer)).double()
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        exact.weight += 0.1 * torch.randn(exact.weight.shape, generator=torch.Generator())
    channels = 1 if target.dim() == 4 and not isinstance(layer, nn.Linear) else -1
    errors = (exact(quantized.double()) - target.double()).square().sum(channels)
    errors.mean().backward()
    loss, gradient = error.at(exact.weight.detach().float())
    assert loss == pytest.approx(float(errors.detach().mean()), rel=1e-4)
    assert exact.weight.grad is not None
    assert torch.allclose(gradient.double(), exact.weight.grad, rtol=1e-3, atol=1e-3)


def arguments(layer: nn.Module) -> dict[str, object]:
    if isinstance(layer, nn.Linear):
        return {"in_features": 9, "out_features": 5}
    names = "in_channels out_channels kernel_size stride padding dilation groups"
    return {n: getattr(layer, n) for n in names.split()} | {"bias": layer.bias is not None}


def test_there_is_none_where_a_function_follows() -> None:
    simulation, unit = unit_of(LAYERS["padded"], nn.ReLU())
    target = [unit.module(IMAGES)[0]]
    assert quadratic_of(simulation, unit, [Values(IMAGES, IMAGES)], target, 1000, 20) is None


def test_there_is_none_where_steps_cost_less_than_the_sums() -> None:
    simulation, unit = unit_of(LAYERS["padded"])
    target = [unit.module(IMAGES)[0]]
    assert quadratic_of(simulation, unit, [Values(IMAGES, IMAGES)], target, 1, 1) is None
