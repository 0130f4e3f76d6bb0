from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte import Recipe, quantize
from subbyte.calibration.bias_correction import correct_biases
from subbyte.calibration.observe import activation_ranges, weight_ranges
from subbyte.calibration.output_correction import correct_outputs, match_outputs
from subbyte.numerics.fake_quantize import BiasQuantize
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

Place = Callable[..., Simulation]


def with_weights(placed: Simulation) -> Simulation:
    """Weights quantized by their range rules, activations in float."""
    found = weight_ranges(placed.float_model, placed.placement, Silent())
    return simulate(placed.float_model, placed.placement, QuantParams(found))


def corrected(simulation: Simulation, batches: list[tuple[torch.Tensor]]) -> Simulation:
    float_model, placement = simulation.float_model, simulation.placement
    params, _ = correct_biases(float_model, placement, simulation.params, batches, 1000, Silent())
    return simulate(float_model, placement, params)


LAYERS = {
    "linear": (nn.Linear(6, 5), (6,)),
    "linear on tokens": (nn.Linear(6, 5), (7, 6)),
    "conv1d": (nn.Conv1d(6, 5, 3, padding=2), (6, 9)),
    "conv2d": (nn.Conv2d(6, 5, 3, padding=1), (6, 8, 8)),
    "grouped": (nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3), (6, 8, 8)),
    "same": (nn.Conv2d(6, 5, 3, padding="same"), (6, 8, 8)),
}


def images(*shape: int, count: int = 24) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)) + 0.7


def mean_of(outputs: torch.Tensor, channel: int) -> torch.Tensor:
    return outputs.double().movedim(channel, -1).flatten(0, -2).mean(0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_it_gave_in_the_mean(place: Place, name: str) -> None:
    layer, shape = LAYERS[name]
    x = images(*shape)
    simulation = with_weights(place(layer, x, weights=2, activations=None))
    channel = -1 if isinstance(layer, nn.Linear) else 1
    expected = mean_of(layer(x).detach(), channel)
    before = (mean_of(simulation(x), channel) - expected).abs().max()
    simulation = corrected(simulation, [(x[:10],), (x[10:],)])
    after = (mean_of(simulation(x), channel) - expected).abs().max()
    assert before > 1e-2
    assert after < 1e-5


class Shared(nn.Module):
    """A layer that is used twice, and one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(F.relu(self.a(x)))))


def test_a_layer_used_twice_is_corrected_by_the_mean_of_both(place: Place) -> None:
    x = images(6, count=200)
    model = Shared()
    first = x.mean(0)
    second = F.relu(model.a(x)).mean(0)
    simulation = with_weights(place(model, x, weights=2, activations=None))
    tensor, quantizer = next(iter(simulation.weights()))
    error = quantizer(simulation.weight(tensor)) - model.a.weight
    moved = model.a.bias - corrected(simulation, [(x,)]).bias("a.bias")
    expected = error @ (first + second) / 2
    torch.testing.assert_close(moved.detach(), expected.detach(), rtol=1e-4, atol=1e-5)


def test_outputs_of_the_last_layers_are_right_in_the_mean(place: Place) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 6, 3)
            self.b, self.c = nn.Conv2d(6, 4, 3), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = F.relu(self.a(x))
            return self.b(hidden), self.c(hidden.mean((2, 3)))

    x, model = images(3, 8, 8), Two()
    simulation = with_weights(place(model, x, weights=2, activations=8))
    float_model, placement, batches = simulation.float_model, simulation.placement, [(x,)]
    params, expected = correct_biases(
        float_model, placement, simulation.params, batches, 24, Silent()
    )
    assert len(expected.means) == 2
    ranges, _ = activation_ranges(simulate(float_model, placement, params), batches, Silent())
    simulation = simulate(float_model, placement, params.with_tensors(ranges))
    biases = correct_outputs(simulation, expected, batches, 24, Silent()).biases
    assert biases.keys() == {"b.bias", "c.bias"}
    simulation = simulate(float_model, placement, simulation.params.with_biases(biases))
    rounded = [m for m in simulation.modules() if isinstance(m, BiasQuantize)]
    coarsest = max(float(bias.scale.max()) for bias in rounded)  # biases are rounded to it
    for output, right in zip(simulation(x), model(x), strict=True):
        error = (mean_of(output, 1) - mean_of(right.detach(), 1)).abs()
        assert error.max() < coarsest / 2 + 1e-5


def test_the_float_model_is_left_as_it_was(place: Place) -> None:
    x = images(6)
    simulation = with_weights(place(Shared(), x))
    region = simulation.float_model.region("")
    before = {name: value.clone() for name, value in region.state_dict().items()}
    corrected(simulation, [(x,)])
    assert "forward" not in vars(region)
    assert all(torch.equal(value, before[name]) for name, value in region.state_dict().items())


def test_outputs_are_matched_in_the_mean_over_all_images() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    batches = [(torch.rand(40, 6) + 1,), (torch.rand(13, 6) - 1,)]
    recipe = Recipe(weights=2, activations=3, first_last=None, method="range")
    simulation = quantize(model, batches, recipe)
    images = torch.cat([args[0] for args in batches])
    expected = model(images).mean(0).detach()
    assert (simulation(images).mean(0) - expected).abs().max() > 0.05
    for name, bias in match_outputs(simulation, batches, Silent()).biases.items():
        simulation.put_bias(name, bias)
    # The bias is rounded as the sums are.
    step = max(float(q.scale.max()) for _, q in simulation.quantizers())
    assert (simulation(images).mean(0) - expected).abs().max() < 0.51 * step**2
