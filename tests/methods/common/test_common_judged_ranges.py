"""Ranges that images held out prefer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import subbyte
from subbyte import Recipe
from subbyte.calibration.observe import activation_ranges
from subbyte.methods.common.judged_ranges import judged_ranges
from subbyte.placement.simulation import simulate
from subbyte.utils.progress import Silent


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


def test_ranges_that_clip_too_much_give_way() -> None:
    """With a quarter of the range all large values are clipped, and the outputs show it."""
    torch.manual_seed(0)
    right = subbyte.quantize(Gate().eval(), BATCHES, Recipe(method="range", first_last=None))
    arguments = [(batch,) for batch in BATCHES]
    _, samples = activation_ranges(right, arguments, Silent())
    narrow = {
        tensor.key: replace(right.params.tensors[tensor.key], scale=quantizer.scale / 4)
        for tensor, quantizer in right.activations()
    }
    clipped = simulate(right.float_model, right.placement, right.params.with_tensors(narrow))
    found = judged_ranges(clipped, samples, arguments)
    losses = found.reported["ranges"]["losses"]
    assert set(losses) == {"mse", "mse × 1.25", "mse × 1.5", "minmax", "lp"}
    chosen = found.reported["ranges"]["chosen"]
    assert losses[chosen] < 0.1 * losses["mse"]
    network = simulate(right.float_model, right.placement, found)
    with torch.no_grad():
        off = right.float_model.output_loss.mean(
            network(images(1)), right.float_model(images(1)), ()
        )
    assert float(off) < 0.2 * losses["mse"]


def test_all_of_few_images_judge() -> None:
    """A fifth of 24 images would be one chunk, which is too few to tell ranges apart."""
    torch.manual_seed(0)
    few = [BATCHES[0][:24]]
    simulation = subbyte.quantize(Gate().eval(), few, Recipe(method="range", first_last=None))
    _, samples = activation_ranges(simulation, [(few[0],)], Silent())
    found = judged_ranges(simulation, samples, [(few[0],)])
    with torch.no_grad():
        model, network = simulation.float_model, simulation
        losses = model.output_loss.mean(network(few[0]), model(few[0]), (few[0],))
    assert found.reported["ranges"]["losses"]["mse"] == pytest.approx(float(losses), rel=1e-4)


def test_auto_says_what_was_chosen() -> None:
    _, told = error(Recipe(first_last=None))
    assert told is not None
    losses = told["losses"]
    assert isinstance(losses, dict)
    assert losses[told["chosen"]] <= losses["mse"]


def test_a_rule_that_was_asked_for_stays() -> None:
    _, told = error(Recipe(ranges="percentile"))
    assert told is None
    _, told = error(Recipe(method="bias_correction"))
    assert told is None
