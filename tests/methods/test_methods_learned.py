"""The methods that learn: better than rounding to nearest, repeatable, and safe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from residual import Residual
from subbyte import Recipe, SubbyteError, export, load, quantize, save
from subbyte.placement.simulation import Simulation

pytestmark = pytest.mark.slow

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
def results() -> dict[str, Simulation]:
    return {name: quantize(model(), BATCHES, learned(name)) for name in LEARNED}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_it_disturbs_the_outputs_less_than_rounding_to_nearest(name: str) -> None:
    recipe = learned(name, steps=1000)
    nearest = quantize(model(), BATCHES, recipe.model_copy(update={"method": "range"}))
    assert error(quantize(model(), BATCHES, recipe)) < 0.7 * error(nearest)


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_seed_gives_the_same_model(name: str, results: dict[str, Simulation]) -> None:
    torch.manual_seed(99)  # not what decides
    again = quantize(model(), BATCHES, learned(name))
    assert torch.equal(again(IMAGES), results[name](IMAGES))


@pytest.mark.parametrize("name", LEARNED)
def test_weights_go_up_or_down_and_no_further(name: str, results: dict[str, Simulation]) -> None:
    elsewhere = 0
    for tensor, quantizer in results[name].weights():
        weight, integers = results[name].weight(tensor), quantizer.integers
        assert integers is not None
        low, high = quantizer.spec.low, quantizer.spec.high
        assert low <= int(integers.min()) <= int(integers.max()) <= high
        shape = (-1, *[1] * (weight.dim() - 1))
        scale, zero_point = quantizer.scale.view(shape), quantizer.zero_point.view(shape)
        exact = weight / scale + zero_point
        inside = (exact > low) & (exact < high)
        moved = (integers - exact).abs()
        assert bool((moved[inside] <= 1 + 1e-4).all())
        elsewhere += int((moved[inside] > 0.5 + 1e-4).sum())
        assert torch.allclose(quantizer(weight), (integers - zero_point.float()) * scale)
    assert elsewhere > 0  # some are not rounded to nearest


def test_the_users_model_is_left_as_it_is() -> None:
    mine = model()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    for name in LEARNED:
        quantize(mine, BATCHES, learned(name, steps=3))
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


def test_what_was_learned_is_saved_and_exported(
    results: dict[str, Simulation], tmp_path: Path
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
    results: dict[str, Simulation],
) -> None:
    spilled = quantize(model(), BATCHES, learned("qdrop", cache_memory=0))
    assert torch.equal(spilled(IMAGES), results["qdrop"](IMAGES))


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
