"""Blocks of a simulation and their parts of the float model, against the user's own module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from placed import placed
from residual import Residual
from simulations import with_ranges
from small_detectors import NAMES, detector, pictures
from subbyte import Recipe
from subbyte.methods.common.simulated_blocks import blocks_of, float_part, layers_of

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe(weights=3, activations=3, first_last=None)


def residual() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Residual(), Residual()).eval()


def test_in_float_each_block_gives_what_the_users_module_does() -> None:
    simulation = with_ranges(placed(residual(), (IMAGES,), RECIPE), [(IMAGES,)])
    model, x = residual(), IMAGES
    blocks = blocks_of(simulation, "")
    assert [block.name for block in blocks] == ["0", "1.first", "2.first"]
    with torch.no_grad():
        for block, module in zip(blocks, model, strict=True):
            (y,) = float_part(simulation, block)(x)
            (quantized,) = block.module(x)
            assert torch.allclose(y, module(x), atol=1e-5)
            assert not torch.allclose(quantized, y, atol=1e-3)
            x = y


def test_layers_are_those_with_a_quantized_weight() -> None:
    kept = {"1.second": {"weights": None}}
    recipe = Recipe(weights=3, activations=3, first_last=None, overrides=kept)
    simulation = placed(residual(), (IMAGES,), recipe)
    names = [x.name for block in blocks_of(simulation, "") for x in layers_of(simulation, block)]
    assert names == ["0", "1.first", "2.first", "2.second"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parts_in_float_have_no_quantizer_and_as_many_ends(name: str) -> None:
    simulation = placed(detector(name), (pictures(2),), RECIPE)
    for region in simulation.region_names:
        for block in blocks_of(simulation, region):
            part = float_part(simulation, block)
            operations = [node.op for node in part.graph.nodes]
            assert "call_module" not in operations
            assert operations.count("placeholder") == len(block.inputs)
