"""Tuning scales: right gradients, integers as they were, and nothing done where it goes wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.methods.common.output_loss import divergence
from subbyte.methods.finetune import tune as tune_module
from subbyte.methods.finetune.parameters import Parameters, Rates
from subbyte.methods.finetune.training_data import Lessons, lessons_of
from subbyte.methods.finetune.tune import Tuning, tune
from subbyte.numerics.qspec import along
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent

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


def every_eighth(count: int) -> torch.Tensor:
    return torch.arange(7, count, 8)


def lessons(captured: Captured) -> Lessons:
    found = lessons_of(captured, [(b,) for b in BATCHES], 40, every_eighth)
    assert found is not None
    return found


def tuning(steps: int, rates: Rates, features: float = 100.0) -> Tuning:
    return Tuning(steps, 16, rates, features)


def outputs(captured: Captured) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = captured(IMAGES)
    return found


def test_it_finds_back_from_wrong_scales_with_the_same_integers(rounded: Captured) -> None:
    wrong = copy.deepcopy(rounded)
    for tensor, quantizer in wrong.quantizers("weight"):
        levels = quantizer.levels(wrong.weight(tensor))
        quantizer.scale.mul_(1.3)
        scale = along(quantizer.scale, levels, quantizer.spec.axis)
        quantizer.offset = levels - wrong.weight(tensor) / scale
    tuned = copy.deepcopy(wrong)
    before = [q.levels(tuned.weight(t)) for t, q in tuned.quantizers("weight")]
    assert tune(tuned, lessons(tuned), tuning(60, Rates(1e-2, 1e-2, 1e-2)), Silent()).kept
    after = [q.levels(tuned.weight(t)) for t, q in tuned.quantizers("weight")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        exact = model()(IMAGES)
    found, at_first = (float(divergence(outputs(c), exact)) for c in (tuned, wrong))
    assert found < 0.4 * at_first
    assert all(quantizer.instead is None for _, quantizer in tuned.quantizers())


def test_large_images_are_learned_from_a_few_at_a_time(
    rounded: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = lessons(rounded)
    monkeypatch.setattr(Lessons, "varied", lambda self, part, _: self.images(part))
    found = []
    for pixels, most in ((tune_module.PIXELS, 16), (5 * own.pixels, 5)):
        monkeypatch.setattr(tune_module, "PIXELS", pixels)
        tuned, sizes = copy.deepcopy(rounded), []
        tuned.model.register_forward_pre_hook(lambda _, args, s=sizes: s.append(len(args[0])))
        assert tune(tuned, own, tuning(3, Rates(1e-3, 1e-3, 1e-3), 0.0), Silent()).kept
        assert max(sizes) == most
        assert all(parameter.grad is None for parameter in tuned.parameters())
        found.append(outputs(tuned))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same(rounded: Captured) -> None:
    found = []
    for _ in range(2):
        tuned = copy.deepcopy(rounded)
        tune(tuned, lessons(tuned), tuning(5, Rates(integers=0.1)), Silent())
        found.append(outputs(tuned))
    assert torch.equal(*found)


def test_integers_move_where_they_are_asked_to() -> None:
    """Integers that were shifted by one come back, at least in part."""
    wrong = quantize(model(), BATCHES, Recipe(weights=4, activations=8, method="range"))
    generator = torch.Generator().manual_seed(1)
    for tensor, quantizer in wrong.quantizers("weight"):
        weight = wrong.weight(tensor)
        by = torch.randint(-1, 2, weight.shape, generator=generator)
        by[torch.rand(weight.shape, generator=generator) < 0.7] = 0
        level = quantizer.levels(weight)
        zero_point = along(quantizer.zero_point, weight, quantizer.spec.axis)
        spec = quantizer.spec
        moved = (level + by).clamp(spec.low - zero_point, spec.high - zero_point)
        quantizer.offset = moved - weight / along(quantizer.scale, weight, spec.axis)
    with torch.no_grad():
        exact = model()(IMAGES)
    losses = {"before": float(divergence(outputs(wrong), exact))}
    for name, rate in (("stay", 0.0), ("move", 0.1)):
        tuned = copy.deepcopy(wrong)
        outcome = tune(tuned, lessons(tuned), tuning(100, Rates(integers=rate)), Silent())
        assert outcome.kept or name == "stay"
        losses[name] = float(divergence(outputs(tuned), exact))
        same = [
            bool((q.levels(tuned.weight(t)) == wrong.quantizer(t).levels(wrong.weight(t))).all())
            for t, q in tuned.quantizers("weight")
        ]
        assert all(same) if name == "stay" else not any(same)
        for tensor, quantizer in tuned.quantizers("weight"):  # on the grid
            level = quantizer.levels(tuned.weight(tensor))
            level = level + along(quantizer.zero_point, level, quantizer.spec.axis)
            assert level.min() >= quantizer.spec.low
            assert level.max() <= quantizer.spec.high
    assert losses["move"] < 0.7 * losses["stay"] <= 0.7 * losses["before"]


def test_integers_of_more_bits_move_by_more_levels() -> None:
    captured = quantize(model(), BATCHES, Recipe(weights=4, method="range"))
    groups = Parameters(captured).groups(Rates(integers=0.02))
    rates = [group["lr"] for group in groups if group["params"][0].dim() > 1]
    assert rates == pytest.approx([0.16, 0.04, 0.16])  # first and last layer have 8 bits


def test_a_loss_that_is_no_number_leaves_all_as_it_was(rounded: Captured) -> None:
    tuned = copy.deepcopy(rounded)
    wrong = lessons(tuned)
    wrong.inputs[0][0] = float("inf")
    outcome = tune(tuned, wrong, tuning(5, Rates()), Silent())
    assert not outcome.kept
    assert outcome.refused == dict.fromkeys((16.0, 4.0, 1.0), "its loss was not a number")
    assert torch.equal(outputs(tuned), outputs(rounded))


def test_what_is_clearly_worse_on_images_held_out_is_not_kept(rounded: Captured) -> None:
    tuned = copy.deepcopy(rounded)
    few = lessons(tuned)
    learned = [i for i in range(40) if i % 8 != 7]
    few.inputs[0][learned] = 1e-3 * few.inputs[0][learned]  # nothing to learn from
    outcome = tune(tuned, few, tuning(40, Rates(0.3, 0.3, 0.3), 0), Silent())
    assert not outcome.kept
    assert len(outcome.refused) == 3
    assert all("images held out had grown" in why for why in outcome.refused.values())
    assert outcome.loss == outcome.loss_before > 0
    assert torch.equal(outputs(tuned), outputs(rounded))


def test_growth_within_the_standard_error_is_chance() -> None:
    before = torch.tensor([0.1, 0.2, 0.3, 4.0])
    grown = tune_module._grown
    assert not grown(before, before)
    assert not grown(before, before - 0.05)
    assert grown(before, before + torch.tensor([0.05, 0.05, 0.06, 0.05]))
    # One image alone: in the mean 0.25 more, with a standard error of 0.25.
    assert not grown(before, before + torch.tensor([0.0, 0.0, 0.0, 0.999]) - 1e-3)
    assert grown(before, torch.tensor([0.1, 0.2, float("nan"), 4.0]))
    assert grown(before[:1], before[:1] + 0.01)
    assert not grown(before[:0], before[:0])  # none is held out
