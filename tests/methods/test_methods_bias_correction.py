from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from subbyte import Recipe, SubbyteError, quantize

IMAGES = 2 * torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
BATCHES = list(IMAGES.split(32))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


@pytest.fixture
def outputs() -> Callable[[Recipe | None], torch.Tensor]:
    def run(recipe: Recipe | None) -> torch.Tensor:
        float_model = model()
        with torch.no_grad():
            if recipe is None:
                return float_model(IMAGES)
            return quantize(float_model, BATCHES, recipe)(IMAGES)

    return run


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (4, 4), (2, 4), (3, None)])
def test_outputs_are_right_in_the_mean(
    outputs: Callable[[Recipe | None], torch.Tensor], weights: int, activations: int | None
) -> None:
    recipe = Recipe(
        weights=weights, activations=activations, first_last=None, method="bias_correction"
    )
    errors = outputs(recipe) - outputs(None)
    spread = float(outputs(None).std())
    # Quantized, the last bias is rounded to steps of the sums it is added to.
    assert errors.mean(0).abs().max() < (0.002 if activations in (8, None) else 0.05) * spread
    plain = outputs(recipe.model_copy(update={"method": "range"})) - outputs(None)
    assert errors.square().sum() < plain.square().sum()


class Saturating(nn.Module):
    """Large inputs give outputs that saturate, and calibration is full of them."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 8, 2, bias=False), nn.Conv2d(8, 2, 2)
        for layer in (self.first, self.second):
            nn.init.uniform_(layer.weight, 1, 3)
        self.act, self.end = nn.Hardswish(), end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.second(self.act(self.first(x))))


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def signal_to_noise(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.parametrize("method", ["bias_correction", "qdrop"])
@pytest.mark.parametrize("end", [nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Hardtanh(0, 1)])
def test_saturated_outputs_are_not_corrected(end: nn.Module, method: str) -> None:
    net = Saturating(end).eval()
    batches, fresh = [noise(16, seed) for seed in range(8)], noise(64, 99)
    options = {"steps": 5} if method == "qdrop" else {}
    found = quantize(net, batches, Recipe(method={"name": method, **options}))
    with torch.no_grad():
        assert signal_to_noise(net(fresh), found(fresh)) > 24
    assert found.params.reported["output_correction"]["kept"] is False


@pytest.mark.parametrize("images", [3, 20, 96])
def test_a_correction_that_helps_is_kept(images: int) -> None:
    recipe = Recipe(weights=2, activations=4, first_last=None, method="bias_correction")
    batches = list(IMAGES[:images].split(32))
    reported = quantize(model(), batches, recipe).params.reported["output_correction"]
    assert reported["kept"] is True
    assert reported["loss"] <= reported["loss_before"]


def test_options_are_checked() -> None:
    for images in (0, -1, "many"):
        with pytest.raises(SubbyteError, match="images"):
            quantize(model(), BATCHES, Recipe(method={"name": "bias_correction", "images": images}))


def test_only_so_many_images_are_used(outputs: Callable[[Recipe | None], torch.Tensor]) -> None:
    recipe = Recipe(weights=2, first_last=None, method={"name": "bias_correction", "images": 8})
    errors = outputs(recipe) - outputs(None)
    assert errors[:8].mean(0).abs().max() < 0.1 * errors[8:].mean(0).abs().max()


def test_the_users_model_keeps_its_biases() -> None:
    mine = model()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    quantize(mine, BATCHES, Recipe(weights=2, method="bias_correction"))
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


def test_without_quantized_weights_it_does_as_the_range_method(
    outputs: Callable[[Recipe | None], torch.Tensor],
) -> None:
    recipe = Recipe(weights=None, method="bias_correction")
    plain = recipe.model_copy(update={"method": "range"})
    assert torch.equal(outputs(recipe), outputs(plain))
