from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte import Recipe, layers, quantize
from subbyte.calibration.gradients import sensitivities
from subbyte.calibration.observe import calibrate, choose_weights, observe
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent

Place = Callable[..., Captured]


def test_the_gradients_are_those_of_the_outputs_through_quantized_weights(place: Place) -> None:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.3, 0.0]]))
    x = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.01, 1.01, 2.01, 4.0]])
    captured = place(model, x, weights=2, first_last=None, ranges="minmax", symmetric_weights=False)
    choose_weights(captured, Silent())
    observe(captured, [(x,)], Silent())
    (grid,) = [quantizer for _, quantizer in captured.quantizers("activation")]
    mean = sensitivities(captured, [grid], [(x,)], Silent())[grid].mean()
    # Levels of step 1 from -2 to 1; each input's values lie in bins of their own.
    expected = torch.tensor([1.0, -2.0, 0.0, 0.0]).square()
    bins = (x[0] / 4.0 * 512).long().clamp(max=511)
    assert mean[bins].tolist() == pytest.approx(expected.tolist())


def test_random_signs_give_the_sum_over_outputs_in_expectation(place: Place) -> None:
    model = nn.Linear(1, 400)
    x = torch.ones(64, 1)
    captured = place(model, x, weights=None, first_last=8)
    observe(captured, [(x,)], Silent())
    (grid,) = [quantizer for _, quantizer in captured.quantizers("activation")]
    found = float(sensitivities(captured, [grid], [(x,)], Silent())[grid].mean()[-1])
    # Of 64 images: the mean of 64 squared sums of 400 numbers with random signs.
    assert found == pytest.approx(float(model.weight.detach().square().sum()), rel=0.5)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_batches_of_any_size_give_the_same(place: Place, size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.randn(64, 3, 6, 6)
    captured = place(model, x[:2])
    choose_weights(captured, Silent())
    found = []
    for batches in ([(x,)], [(part,) for part in x.split(size)]):
        observe(captured, batches, Silent())
        grids = [quantizer for _, quantizer in captured.quantizers("activation")]
        costs = sensitivities(captured, grids, batches, Silent())
        found.append(torch.stack([costs[grid].mean() for grid in grids]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-12)


def test_nothing_of_the_images_stays_in_memory(place: Place) -> None:
    x = torch.randn(16, 3, 6, 6)
    captured = place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), x[:2])
    observe(captured, [(x,)], Silent())
    grids = [quantizer for _, quantizer in captured.quantizers("activation")]
    seen: list[weakref.ref[torch.Tensor]] = []
    for grid in grids:
        grid.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    sensitivities(captured, grids, [(x,)], Silent())
    gc.collect()
    assert len(seen) == 2 * len(grids)  # eight images at a time
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
        captured = place(Argmax(), x, activations=4, ranges={"activations": rule})
        calibrate(captured, [(x,)], Silent())
        scales.append([row["scale"] for row in layers(captured) if row["role"] == "activation"])
    assert scales[0] == scales[1]


def test_it_leaves_no_hooks_no_gradients_and_the_statistics_as_they_were(place: Place) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.randn(4, 3, 8, 8)
    captured = place(model, x)
    calibrate(captured, [(x,)], Silent())
    assert not captured(x).requires_grad
    assert not any(q._forward_hooks for _, q in captured.quantizers())
    assert all(p.grad is None for p in captured.parameters())
    assert all(q.state is State.QUANTIZE for _, q in captured.quantizers())
