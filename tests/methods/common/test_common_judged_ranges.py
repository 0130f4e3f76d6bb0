"""Ranges that images held out prefer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import subbyte
from subbyte import Recipe


class Gate(nn.Module):
    """Rare large values decide: the outputs grow with their square."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(8))
            self.first.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        found: torch.Tensor = self.last(hidden * hidden)
        return found


def images(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(512, 8, generator=generator)
    x[::8] = 4 * torch.rand(64, 8, generator=generator)
    return x


BATCHES = list(images(0).split(32))


def error(recipe: Recipe) -> tuple[float, dict[str, object] | None]:
    torch.manual_seed(0)
    model = Gate().eval()
    quantized = subbyte.quantize(model, BATCHES, recipe)
    with torch.no_grad():
        x = images(1)
        off = quantized(x).log_softmax(1) - model(x).log_softmax(1)
    return float(off.square().mean()), quantized.params.reported.get("ranges")


@pytest.mark.parametrize("activations", [8, 4])
def test_auto_is_not_worse_than_plainer_rules(activations: int) -> None:
    bits = {"weights": 8, "activations": activations, "first_last": None}
    found, told = error(Recipe(**bits, method={"name": "auto"}))
    assert told is not None
    losses = told["losses"]
    assert isinstance(losses, dict)
    assert set(losses) == {"mse", "mse × 1.25", "mse × 1.5", "minmax", "lp"}
    assert losses[told["chosen"]] <= 2 * min(losses.values())  # within what 32 images decide
    plain = [error(Recipe(**bits, method="range", ranges=rule))[0] for rule in ("minmax", "lp")]
    assert found <= 1.2 * min(plain)


def test_a_rule_that_was_asked_for_stays() -> None:
    _, told = error(Recipe(ranges="percentile"))
    assert told is None
    _, told = error(Recipe(method="bias_correction"))
    assert told is None
