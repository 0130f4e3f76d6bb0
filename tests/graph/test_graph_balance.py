from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subbyte
from subbyte.api import capture
from subbyte.graph.balance import balanced, sites
from unlike import ACTIVATIONS, CHANNELS, Unlike, decibels, noise


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_the_scaled_model_computes_the_same_bits(act: str, multiplier: int) -> None:
    float_model = capture(Unlike(ACTIVATIONS[act], multiplier).eval(), (noise(4),))
    found = sites(float_model)
    assert found
    powers = 2.0 ** -torch.arange(CHANNELS * multiplier).remainder(7)
    sizes = {site.key: CHANNELS for site in found if site.node == "conv2d"}
    factors = {
        site.key: powers[: CHANNELS if site.side == "input" else sizes.get(site.key, len(powers))]
        for site in found
    }
    scaled = balanced(float_model, factors)
    x = noise(3, seed=1)
    assert torch.equal(scaled(x), float_model(x))
    weights = [dict(m.model.named_parameters()) for m in (scaled, float_model)]
    assert any(not torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.parametrize("act", ["SiLU", "hardswish", "ReLU", "leaky ReLU"])
def test_small_channels_keep_their_signal(act: str) -> None:
    model, x = Unlike(ACTIVATIONS[act]).eval(), noise(64, seed=2)
    recipe = subbyte.Recipe(method="range", ranges="minmax")
    batches = [noise(16), noise(16, seed=1)]
    found = subbyte.quantize(model, batches, recipe)
    plain = subbyte.quantize(model, batches, recipe.model_copy(update={"balance": False}))
    with torch.no_grad():
        expected = model(x)
        assert decibels(expected, found(x)) > 30
        assert decibels(expected, found(x)) > decibels(expected, plain(x)) + 8


def test_a_saved_model_keeps_its_factors(tmp_path: Path) -> None:
    model, x = Unlike(nn.SiLU()).eval(), noise(32)
    quantized = subbyte.quantize(model, [x])
    subbyte.save(quantized, tmp_path / "saved.safetensors")
    loaded = subbyte.load(model, tmp_path / "saved.safetensors")
    assert torch.equal(loaded(x), quantized(x))


def test_like_channels_and_shared_weights_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    like = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)
    )
    x = noise(32)
    assert not subbyte.quantize(like.eval(), [x]).float_model.factors

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.first = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            silu = nn.functional.silu
            return self.layer(silu(self.layer(silu(self.first(x)))))

    names = {site.node for site in sites(capture(Twice().eval(), (x,)))}
    assert names == {"conv2d"}  # the first convolution's result alone


def test_channels_of_which_little_was_seen_are_left_as_they_are() -> None:
    model = Unlike(nn.SiLU()).eval()
    assert not subbyte.quantize(model, [noise(16)]).float_model.factors  # 2,304 values
