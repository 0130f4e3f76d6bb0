from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from placed import placed
from residual import Residual
from subbyte import quantize
from subbyte.graph.blocks import Block, find_blocks, leading_to, same_part, single_layers
from subbyte.graph.float_model import Regional
from subbyte.models import build
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe


def small() -> nn.Module:
    torch.manual_seed(0)
    stem, pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(
        stem, nn.ReLU(), nn.MaxPool2d(2), Residual(4), pool, nn.Flatten(), nn.Linear(4, 2)
    ).eval()


def simulation_of(model: nn.Module, *shape: int) -> Simulation:
    torch.manual_seed(0)
    return placed(model, (torch.randn(2, *shape),), Recipe(weights=4, activations=4))


def layer_nodes(simulation: Simulation) -> dict[str, str]:
    return {layer.node: layer.name for layer in simulation.placement.layers}


def blocks_of(simulation: Simulation) -> list[Block]:
    return find_blocks(simulation.region(""), "", layer_nodes(simulation))


def chained(model: Regional, blocks: list[Block], x: torch.Tensor) -> torch.Tensor:
    """What the blocks give one after the other, by the operators of a model's own graph."""
    region = model.region("")
    placeholder = next(n for n in region.graph.nodes if n.op == "placeholder")
    values = {placeholder.name: x}
    outputs: tuple[torch.Tensor, ...] = ()
    for block in blocks:
        part = same_part(region, block.inputs, block.outputs)
        outputs = part(*[values[node.name] for node in block.inputs])
        values |= {n.name: y for n, y in zip(block.outputs, outputs, strict=True)}
    return outputs[0]


def layers_of(block: Block, simulation: Simulation) -> list[str]:
    return [tensor.layer for tensor, _ in simulation.quantizers_in(block.module, "weight")]


def test_a_residual_network_is_cut_at_its_residual_blocks() -> None:
    simulation = simulation_of(small(), 3, 10, 10)
    blocks = blocks_of(simulation)
    layers = [layers_of(block, simulation) for block in blocks]
    assert layers == [["0"], ["3.first", "3.second"], ["6"]]
    assert [block.name for block in blocks] == ["0", "3.first", "6"]
    # The stem ends behind its ReLU; the quantizer and the pooling are part of the next block.
    assert blocks[0].outputs[0].meta["val"].shape[2:] == (8, 8)
    assert blocks[1].outputs[0].meta["val"].shape[2:] == (4, 4)


def test_each_tensor_is_in_one_block_and_the_blocks_compute_what_the_model_does() -> None:
    model = small()
    recipe = Recipe(weights=4, activations=4, method="range")
    simulation = quantize(model, [torch.randn(2, 3, 10, 10)], recipe)
    blocks = blocks_of(simulation)
    found = [t.key for block in blocks for t, _ in simulation.quantizers_in(block.module)]
    assert Counter(found) == Counter(tensor.key for tensor in simulation.placement.tensors)
    for images in (1, 5):  # not the number at capture
        x = torch.randn(images, 3, 10, 10)
        assert torch.equal(chained(simulation, blocks, x), simulation(x))
        in_float = chained(simulation.float_model, blocks, x)
        assert torch.equal(in_float, simulation.float_model(x))
        torch.testing.assert_close(in_float, model(x).detach())


def test_the_layers_of_a_block_one_by_one() -> None:
    simulation = simulation_of(small(), 3, 10, 10)
    region, layers = simulation.region(""), layer_nodes(simulation)
    block = blocks_of(simulation)[1]
    first, second = single_layers(region, block, layers, layers.keys())
    assert (first.name, second.name) == ("3.first", "3.second")
    x = torch.randn(3, 4, 8, 8)  # in front of the pooling
    model = small()
    with torch.no_grad():
        (read,) = leading_to(region, block, first.inputs).module(x)
        assert torch.equal(read, model[2](x))
        (given,) = first.module(read)
        assert torch.allclose(given, torch.relu(model[3].first(read)), atol=1e-6)
        (between,) = leading_to(region, block, second.inputs).module(x)
        assert torch.equal(between, given)


EXPECTED = {
    "resnet18": [1, 2, 2, 3, 2, 3, 2, 3, 2, 1],
    "densenet121": [1, 12, 1, 24, 1, 48, 1, 32, 1],
    "googlenet": [1, 1, 1, 6, 6, 6, 6, 6, 6, 6, 6, 6, 1],
    "vit_b_16": [1, *[2] * 24, 1],
    "swin_t": [1, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1, *[2] * 12, 1, 2, 2, 2, 2, 1],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(n, marks=pytest.mark.whole) for n in EXPECTED if n != "resnet18")],
)
def test_weights_in_the_blocks_of_known_architectures(name: str) -> None:
    side = 224 if name in ("vit_b_16", "swin_t") else 64
    simulation = simulation_of(build(name).eval(), 3, side, side)
    blocks = blocks_of(simulation)
    assert [len(layers_of(block, simulation)) for block in blocks] == EXPECTED[name]
    x = torch.randn(1, 3, side, side)
    assert torch.equal(chained(simulation, blocks, x), simulation(x))


@pytest.mark.whole
@pytest.mark.parametrize(("name", "residual"), [("mobilenet_v2", 10), ("efficientnet_b0", 9)])
def test_inverted_residual_blocks_are_whole_where_they_are_residual(
    name: str, residual: int
) -> None:
    simulation = simulation_of(build(name).eval(), 3, 64, 64)
    whole = 3 if name == "mobilenet_v2" else 5  # with the two layers of squeeze and excitation
    blocks = blocks_of(simulation)
    sizes = Counter(len(layers_of(b, simulation)) for b in blocks)
    assert sizes[whole] == residual
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(chained(simulation, blocks, x), simulation(x))
