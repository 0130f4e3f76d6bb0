from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte import Recipe, quantize
from subbyte.calibration.gradients import value_gradients
from subbyte.calibration.observe import activation_ranges, observe, weight_ranges
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

Place = Callable[..., Simulation]
Batches = list[tuple[torch.Tensor]]


def with_weights(placed: Simulation) -> Simulation:
    """Weights quantized by their range rules, activations in float."""
    found = weight_ranges(placed.float_model, placed.placement, Silent())
    return simulate(placed.float_model, placed.placement, QuantParams(found))


def means(simulation: Simulation, batches: Batches) -> list[torch.Tensor]:
    """Mean squared gradients by value, of each activation in order."""
    seen = observe(simulation, batches, Silent())
    extremes = {key: (histogram.low, histogram.high) for key, histogram in seen.items()}
    found = value_gradients(simulation, extremes, batches, Silent())
    return [found[tensor.key].mean() for tensor, _ in simulation.activations()]


def test_the_gradients_are_those_of_the_outputs_through_quantized_weights(place: Place) -> None:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.3, 0.0]]))
    x = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.01, 1.01, 2.01, 4.0]])
    placed = place(model, x, weights=2, first_last=None, ranges="minmax", symmetric_weights=False)
    (mean,) = means(with_weights(placed), [(x,)])
    # Levels of step 1 from -2 to 1; each input's values lie in bins of their own.
    expected = torch.tensor([1.0, -2.0, 0.0, 0.0]).square()
    bins = (x[0] / 4.0 * 512).long().clamp(max=511)
    assert mean[bins].tolist() == pytest.approx(expected.tolist())


def test_random_signs_give_the_sum_over_outputs_in_expectation(place: Place) -> None:
    model = nn.Linear(1, 400)
    x = torch.ones(64, 1)
    (mean,) = means(place(model, x, weights=None, first_last=8), [(x,)])
    found = float(mean[-1])
    # Of 64 images: the mean of 64 squared sums of 400 numbers with random signs.
    assert found == pytest.approx(float(model.weight.detach().square().sum()), rel=0.5)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_batches_of_any_size_give_the_same(place: Place, size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.randn(64, 3, 6, 6)
    simulation = with_weights(place(model, x[:2]))
    found = [
        torch.stack(means(simulation, batches))
        for batches in ([(x,)], [(part,) for part in x.split(size)])
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-12)


def test_nothing_of_the_images_stays_in_memory(place: Place) -> None:
    x = torch.randn(16, 3, 6, 6)
    placed = place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), x[:2])
    quantizers = list(placed.activations())
    seen: list[weakref.ref[torch.Tensor]] = []
    for _, quantizer in quantizers:
        quantizer.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    extremes = {tensor.key: (-4.0, 4.0) for tensor, _ in quantizers}
    value_gradients(placed, extremes, [(x,)], Silent())
    gc.collect()
    assert len(seen) == 2 * len(quantizers)  # eight images at a time
    assert [kept() for kept in seen if kept() is not None] == []


def test_errors_that_no_output_shows_do_not_weigh() -> None:
    class Model(nn.Module):
        """Where the outputs are at their limits, hidden activations change nothing."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = F.relu(self.a(x))
            return F.hardtanh(self.b(hidden), -0.1, 0.1)

    x = 3 * torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    errors = {}
    for name, rule in {"weighed": "mse", "not": {"name": "mse", "p": 2}}.items():
        recipe = Recipe(
            weights=None,
            activations=4,
            first_last=None,
            ranges={"activations": rule},
            method="range",
        )
        model = Model().eval()
        quantized = quantize(model, [x], recipe)
        errors[name] = float((quantized(x) - model(x)).detach().square().sum())
    assert errors["weighed"] < errors["not"]


def test_a_model_without_gradients_falls_back_to_its_values(place: Place) -> None:
    class Argmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x).argmax(1)

    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    scales = []
    for rule in ("mse", {"name": "mse", "p": 2.4}):
        placed = place(Argmax(), x, activations=4, ranges={"activations": rule})
        found, _ = activation_ranges(placed, [(x,)], Silent())
        scales.append([float(params.scale) for params in found.values()])
    assert scales[0] == scales[1]


def test_it_leaves_no_hooks_and_no_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.randn(4, 3, 8, 8)
    quantized = quantize(model, [x], Recipe())
    assert not quantized(x).requires_grad
    assert not any(q._forward_hooks or q._forward_pre_hooks for _, q in quantized.quantizers())
    assert all(p.grad is None for p in quantized.parameters())
