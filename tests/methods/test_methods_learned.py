"""The methods that learn: better than rounding to nearest, repeatable, and safe."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from residual import Residual
from subbyte import Recipe, SubbyteError, export, load, quantize, save
from subbyte.methods.reconstruction import learn
from subbyte.placement.simulation import Captured

LEARNED = ("adaround", "brecq", "qdrop")
IMAGES = 10 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(3)
BATCHES = list(IMAGES.split(24))  # the last one is smaller


def model() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(
        stem, nn.ReLU(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()


def learned(name: str, **options: float) -> Recipe:
    method = {"name": name, "steps": 40, **options}
    return Recipe(weights=2, activations=4, first_last=4, method=method)


def error(quantized: nn.Module) -> float:
    with torch.no_grad():
        return float((quantized(IMAGES) - model()(IMAGES)).square().mean())


@pytest.fixture(scope="module")
def results() -> dict[str, Captured]:
    return {name: quantize(model(), BATCHES, learned(name)) for name in LEARNED}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_it_disturbs_the_outputs_less_than_rounding_to_nearest(name: str) -> None:
    recipe = learned(name, steps=1000)
    nearest = quantize(model(), BATCHES, recipe.model_copy(update={"method": "range"}))
    assert error(quantize(model(), BATCHES, recipe)) < 0.7 * error(nearest)


@pytest.mark.parametrize("name", LEARNED)
def test_every_weight_has_its_rounding_and_no_grid_a_function_of_its_own(
    name: str, results: dict[str, Captured]
) -> None:
    for _, quantizer in results[name].quantizers():
        assert quantizer.instead is None
    for _, quantizer in results[name].quantizers("weight"):
        assert quantizer.offset is not None


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_seed_gives_the_same_model(name: str, results: dict[str, Captured]) -> None:
    torch.manual_seed(99)  # not what decides
    again = quantize(model(), BATCHES, learned(name))
    assert torch.equal(again(IMAGES), results[name](IMAGES))


@pytest.mark.parametrize("name", LEARNED)
def test_weights_stay_on_their_levels_and_the_users_model_as_it_is(
    name: str, results: dict[str, Captured]
) -> None:
    for tensor, quantizer in results[name].quantizers("weight"):
        weight = results[name].weight(tensor)
        levels = quantizer.levels(weight) + quantizer.zero_point.view(-1, *[1] * (weight.dim() - 1))
        assert quantizer.spec.low <= int(levels.min()) <= int(levels.max()) <= quantizer.spec.high
        # Up or down, and no further, but for weights beyond the ends of the grid.
        scale = quantizer.scale.view(-1, *[1] * (weight.dim() - 1))
        moved = (quantizer(weight) - weight).abs() / scale
        ends = (levels == quantizer.spec.low) | (levels == quantizer.spec.high)
        assert bool((moved[~ends] <= 1 + 1e-4).all())


def test_what_was_learned_is_saved_and_exported(
    results: dict[str, Captured], tmp_path: Path
) -> None:
    quantized = results["qdrop"]
    save(quantized, tmp_path / "model.safetensors")
    again = load(model(), tmp_path / "model.safetensors")
    assert torch.equal(again(IMAGES), quantized(IMAGES))
    export(quantized, tmp_path / "model.onnx", IMAGES[:2])
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"input": IMAGES.numpy()})
    assert torch.allclose(torch.from_numpy(found), quantized(IMAGES).detach(), atol=1e-4)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("images", [1, 5])
def test_fewer_images_than_a_batch(name: str, images: int) -> None:
    quantized = quantize(model(), [IMAGES[:images]], learned(name, steps=3))
    assert bool(torch.isfinite(quantized(IMAGES)).all())


def test_only_weights_or_only_activations() -> None:
    recipe = learned("qdrop", steps=5)
    for change in ({"activations": None}, {"weights": None}):
        quantized = quantize(model(), BATCHES, recipe.model_copy(update=change))
        assert bool(torch.isfinite(quantized(IMAGES)).all())


def test_values_beyond_the_memory_allowed_lie_in_files_with_the_same_result(
    results: dict[str, Captured],
) -> None:
    spilled = quantize(model(), BATCHES, learned("qdrop", cache_memory=0))
    assert torch.equal(spilled(IMAGES), results["qdrop"](IMAGES))


def test_a_block_whose_loss_is_no_number_falls_back_and_the_others_are_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    original: Callable[..., tuple[float, list[torch.Tensor]]] = learn._loss

    def broken(*args: object) -> tuple[float, list[torch.Tensor]]:
        nonlocal calls
        calls += 1
        loss, gradients = original(*args)
        return (math.nan if calls == 2 else loss), gradients

    monkeypatch.setattr(learn, "_loss", broken)
    quantized = quantize(model(), BATCHES, learned("qdrop", steps=4))
    assert [block["fell_back"] for block in quantized.facts.blocks] == [True, False, False]
    assert quantized.facts.blocks[0]["why"] == "its loss was not a number"
    offsets = [quantizer.offset for _, quantizer in quantized.quantizers("weight")]
    assert offsets[0] is None
    assert all(offset is not None for offset in offsets[1:])


def test_a_block_whose_output_is_constant() -> None:
    dead = model()
    with torch.no_grad():
        dead[0].bias.fill_(-1e4)  # behind the ReLU all is zero
    assert bool(torch.isfinite(quantize(dead, BATCHES, learned("qdrop", steps=4))(IMAGES)).all())


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(SubbyteError, match="this method needs images of one size"):
        quantize(model(), [IMAGES, IMAGES[..., :6]], learned("brecq", steps=2))


@pytest.mark.parametrize("name", LEARNED)
def test_options_are_checked(name: str) -> None:
    for option, value in (("steps", 0), ("batch", 0), ("cache_memory", -1), ("stepz", 3)):
        with pytest.raises(SubbyteError, match=option):
            quantize(model(), BATCHES, Recipe(method={"name": name, option: value}))
