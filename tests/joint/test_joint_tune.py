"""Tuning scales: right gradients, integers as they were, and nothing done where it goes wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.graph.captured import Captured
from subbyte.grid.spec import along
from subbyte.joint.objective import divergence
from subbyte.joint.tune import Lessons, Rates, _FakeQuantize, lessons_of, tune
from subbyte.progress import Silent

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = list(IMAGES.split(16))


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    last = nn.Linear(128, 5)
    with torch.no_grad():
        last.weight.mul_(30)  # so that classes differ
    return nn.Sequential(*layers, nn.Flatten(), last).eval()


@pytest.fixture(scope="module")
def rounded() -> Captured:
    return quantize(model(), BATCHES, Recipe(weights=3, activations=3, method="range"))


def lessons(captured: Captured, *, mirror: bool = True) -> Lessons:
    found = lessons_of(captured, [(b,) for b in BATCHES], 40, mirror=mirror)
    assert found is not None
    return found


def outputs(captured: Captured) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = captured(IMAGES)
    return found


def test_gradients_are_finite_differences_away_from_rounding_points() -> None:
    x = torch.tensor([-0.9, -0.2, 0.13, 0.37, 0.72, 2.9], dtype=torch.float64)
    slopes = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25], dtype=torch.float64)

    def value(log: float) -> float:
        """Σ slopes · Q(x), with the levels −2 … 5 of step exp(log)."""
        s = torch.tensor(log, dtype=torch.float64).exp()
        level = (x / s).round().clamp(-2, 5)
        return float((slopes * level * s).sum())

    log = torch.tensor([-1.1], dtype=torch.float64, requires_grad=True)
    inputs = x.clone().requires_grad_()
    y = _FakeQuantize.apply(inputs, log, -2, 5)
    y.backward(slopes)
    s = float(log.detach().exp())
    level = x / s
    inside = (level.round() >= -2) & (level.round() <= 5)
    # Straight through: rounding counts as x + constant, so that d/ds is Q / s − x / s inside.
    expected = float(
        (slopes * torch.where(inside, level.round() * s - x, level.round().clamp(-2, 5) * s)).sum()
    )
    assert log.grad is not None
    assert inputs.grad is not None
    assert float(log.grad) == pytest.approx(expected)
    assert torch.equal(inputs.grad, slopes * inside)
    # Beyond the grid's ends nothing is rounded: there it is the true derivative.
    x, slopes = x[~inside], slopes[~inside]
    true = (value(-1.1 + 1e-6) - value(-1.1 - 1e-6)) / 2e-6
    y = _FakeQuantize.apply(x, log, -2, 5)
    (found,) = torch.autograd.grad(y, log, slopes)
    assert float(found) == pytest.approx(true, rel=1e-4)


def test_it_finds_back_from_wrong_scales_with_the_same_integers(rounded: Captured) -> None:
    wrong = copy.deepcopy(rounded)
    for tensor, quantizer in wrong.quantizers("weight"):
        levels = quantizer.levels(wrong.weight(tensor))
        quantizer.scale.mul_(1.3)
        scale = along(quantizer.scale, levels, quantizer.spec.axis)
        quantizer.offset = levels - wrong.weight(tensor) / scale
    tuned = copy.deepcopy(wrong)
    before = [q.levels(tuned.weight(t)) for t, q in tuned.quantizers("weight")]
    assert tune(tuned, lessons(tuned), 60, 16, Rates(1e-2, 1e-2, 1e-2), Silent())
    after = [q.levels(tuned.weight(t)) for t, q in tuned.quantizers("weight")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        exact = model()(IMAGES)
    found, at_first = (float(divergence(outputs(c), exact)) for c in (tuned, wrong))
    assert found < 0.4 * at_first
    assert all(quantizer.instead is None for _, quantizer in tuned.quantizers())


def test_the_same_seed_gives_the_same(rounded: Captured) -> None:
    found = []
    for _ in range(2):
        tuned = copy.deepcopy(rounded)
        tune(tuned, lessons(tuned), 5, 16, Rates(), Silent())
        found.append(outputs(tuned))
    assert torch.equal(*found)


def test_mirrored_images_have_their_own_outputs(rounded: Captured) -> None:
    found = lessons(rounded)
    assert len(found.outputs[0]) == 80
    with torch.no_grad():
        expected = model()(IMAGES[:40].flip(3))
    assert torch.allclose(found.outputs[0][40:], expected, atol=1e-5)
    assert len(lessons(rounded, mirror=False).outputs[0]) == 40


def test_a_loss_that_is_no_number_leaves_all_as_it_was(rounded: Captured) -> None:
    tuned = copy.deepcopy(rounded)
    wrong = lessons(tuned)
    wrong.outputs[0][:] = float("nan")  # those of held-out images too
    assert not tune(tuned, wrong, 5, 16, Rates(), Silent())
    assert torch.equal(outputs(tuned), outputs(rounded))


def test_what_is_no_better_on_images_held_out_is_not_kept(rounded: Captured) -> None:
    tuned = copy.deepcopy(rounded)
    wrong = lessons(tuned, mirror=False)
    learned = [i for i in range(40) if i % 8 != 7]
    wrong.outputs[0][learned] = wrong.outputs[0][learned].flip(1) * 5  # nothing to learn from
    assert not tune(tuned, wrong, 40, 16, Rates(3e-2, 3e-2, 3e-2), Silent())
    assert torch.equal(outputs(tuned), outputs(rounded))


def test_images_of_several_sizes_are_no_lessons(rounded: Captured) -> None:
    batches = [([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)],)]
    assert lessons_of(rounded, batches, 40, mirror=False) is None
