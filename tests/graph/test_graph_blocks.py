from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from residual import Residual
from subbyte.api import prepare
from subbyte.graph.blocks import Block, find_blocks, leading_to, single_layers
from subbyte.models import build
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.recipe import Recipe


def small() -> nn.Module:
    torch.manual_seed(0)
    stem, pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(
        stem, nn.ReLU(), nn.MaxPool2d(2), Residual(4), pool, nn.Flatten(), nn.Linear(4, 2)
    ).eval()


def captured_of(model: nn.Module, *shape: int) -> Captured:
    torch.manual_seed(0)
    return prepare(model, (torch.randn(2, *shape),), Recipe(weights=4, activations=4))


def chained(captured: Captured, x: torch.Tensor) -> torch.Tensor:
    """What the blocks give one after the other."""
    placeholder = next(n for n in captured.region("").graph.nodes if n.op == "placeholder")
    values = {placeholder: x}
    outputs: tuple[torch.Tensor, ...] = ()
    for block in find_blocks(captured, ""):
        outputs = block.module(*[values[node] for node in block.inputs])
        values |= dict(zip(block.outputs, outputs, strict=True))
    return outputs[0]


def layers_of(block: Block, captured: Captured) -> list[str]:
    return [tensor.layer for tensor, _ in block.tensors(captured, "weight")]


def test_a_residual_network_is_cut_at_its_residual_blocks() -> None:
    captured = captured_of(small(), 3, 10, 10)
    blocks = find_blocks(captured, "")
    layers = [layers_of(block, captured) for block in blocks]
    assert layers == [["0"], ["3.first", "3.second"], ["6"]]
    assert [block.name for block in blocks] == ["0", "3.first", "6"]
    # The stem ends behind its ReLU, in front of the grid and the pooling that the next block has.
    assert blocks[0].outputs[0].meta["val"].shape[2:] == (8, 8)
    assert blocks[1].outputs[0].meta["val"].shape[2:] == (4, 4)


def test_each_grid_is_in_one_block_and_the_blocks_compute_what_the_model_does() -> None:
    captured = captured_of(small(), 3, 10, 10)
    found = [t.module for block in find_blocks(captured, "") for t, _ in block.tensors(captured)]
    assert Counter(found) == Counter(tensor.module for tensor in captured.tensors)
    for images in (1, 5):  # not the number at capture
        x = torch.randn(images, 3, 10, 10)
        for state in (State.OFF, State.QUANTIZE):
            captured.set_state(state)
            assert torch.equal(chained(captured, x), captured(x))


def test_the_layers_of_a_block_one_by_one() -> None:
    captured = captured_of(small(), 3, 10, 10)
    block = find_blocks(captured, "")[1]
    first, second = single_layers(captured, block)
    assert (first.name, second.name) == ("3.first", "3.second")
    x = torch.randn(3, 4, 8, 8)  # in front of the pooling
    model = small()
    with torch.no_grad():
        (read,) = leading_to(captured, block, first.inputs).module(x)
        assert torch.equal(read, model[2](x))
        (given,) = first.module(read)
        assert torch.allclose(given, torch.relu(model[3].first(read)), atol=1e-6)
        (between,) = leading_to(captured, block, second.inputs).module(x)
        assert torch.equal(between, given)


EXPECTED = {
    "resnet18": [1, 2, 2, 3, 2, 3, 2, 3, 2, 1],
    "densenet121": [1, 12, 1, 24, 1, 48, 1, 32, 1],
    "googlenet": [1, 1, 1, 6, 6, 6, 6, 6, 6, 6, 6, 6, 1],
    "vit_b_16": [1, *[2] * 24, 1],
    "swin_t": [1, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1, *[2] * 12, 1, 2, 2, 2, 2, 1],
}


@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in EXPECTED if n != "resnet18")],
)
def test_weights_in_the_blocks_of_known_architectures(name: str) -> None:
    side = 224 if name in ("vit_b_16", "swin_t") else 64
    captured = captured_of(build(name).eval(), 3, side, side)
    blocks = find_blocks(captured, "")
    assert [len(layers_of(block, captured)) for block in blocks] == EXPECTED[name]
    x = torch.randn(1, 3, side, side)
    assert torch.equal(chained(captured, x), captured(x))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "residual"), [("mobilenet_v2", 10), ("efficientnet_b0", 9)])
def test_inverted_residual_blocks_are_whole_where_they_are_residual(
    name: str, residual: int
) -> None:
    captured = captured_of(build(name).eval(), 3, 64, 64)
    whole = 3 if name == "mobilenet_v2" else 5  # with the two layers of squeeze and excitation
    sizes = Counter(len(layers_of(b, captured)) for b in find_blocks(captured, ""))
    assert sizes[whole] == residual
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(chained(captured, x), captured(x))
