from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte import Recipe
from subbyte.api import prepare
from subbyte.calibration.bias_correction import correct_biases, correct_outputs, match_outputs
from subbyte.calibration.observe import calibrate, choose_activations, choose_weights
from subbyte.numerics.fake_quantize import BiasQuantize, State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent

Place = Callable[..., Captured]

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
    captured = place(layer, x, weights=2, activations=None)
    channel = -1 if isinstance(layer, nn.Linear) else 1
    expected = mean_of(layer(x).detach(), channel)
    choose_weights(captured, Silent())
    captured.set_state(State.QUANTIZE)
    before = (mean_of(captured(x), channel) - expected).abs().max()
    correct_biases(captured, [(x[:10],), (x[10:],)], 24, Silent())
    captured.set_state(State.QUANTIZE)
    after = (mean_of(captured(x), channel) - expected).abs().max()
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
    captured = place(model, x, weights=2, activations=None)
    choose_weights(captured, Silent())
    tensor, quantizer = next(iter(captured.quantizers("weight")))
    error = quantizer.quantize(captured.weight(tensor)) - model.a.weight
    bias = captured.region("").get_parameter("a.bias").clone()
    correct_biases(captured, [(x,)], 200, Silent())
    moved = bias - captured.region("").get_parameter("a.bias")
    expected = error @ (first + second) / 2
    torch.testing.assert_close(moved, expected.detach(), rtol=1e-4, atol=1e-5)


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
    captured = place(model, x, weights=2, activations=8)
    batches = [(x,)]
    choose_weights(captured, Silent())
    hidden = captured.region("").get_parameter("a.bias")
    expected = correct_biases(captured, batches, 24, Silent())
    assert len(expected) == 2
    choose_activations(captured, batches, Silent())
    before = hidden.clone()
    correct_outputs(captured, expected, batches, 24, Silent())
    assert torch.equal(hidden, before)
    grids = [m for m in captured.modules() if isinstance(m, BiasQuantize)]
    coarsest = max(float(grid.scale.max()) for grid in grids)  # biases are rounded to it
    for output, right in zip(captured(x), model(x), strict=True):
        error = (mean_of(output, 1) - mean_of(right.detach(), 1)).abs()
        assert error.max() < coarsest / 2 + 1e-5


def test_the_model_runs_as_before_when_it_is_done(place: Place) -> None:
    x, model = images(6), Shared()
    captured = place(model, x)
    choose_weights(captured, Silent())
    correct_biases(captured, [(x,)], 24, Silent())
    assert "forward" not in vars(captured.region(""))


def test_outputs_are_matched_in_the_mean_over_all_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    batches = [(torch.rand(40, 6) + 1,), (torch.rand(13, 6) - 1,)]
    captured = prepare(model, batches[0], Recipe(weights=2, activations=3, first_last=None))
    calibrate(captured, batches, Silent())
    images = torch.cat([args[0] for args in batches])
    expected = model(images).mean(0)
    assert (captured(images).mean(0) - expected).abs().max() > 0.05
    match_outputs(captured, batches, Silent())
    # The bias lies on the grid of the sums.
    step = max(float(q.scale.max()) for _, q in captured.quantizers())
    assert (captured(images).mean(0) - expected).abs().max() < 0.51 * step**2
