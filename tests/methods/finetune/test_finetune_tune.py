"""Tuning: gradients reach all, integers stay where they shall, nothing is done where it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.graph.output_loss import loss_of_outputs
from subbyte.methods.common.context import Context
from subbyte.methods.finetune import tune as tune_module
from subbyte.methods.finetune.parameters import Parameters, Rates
from subbyte.methods.finetune.training_data import TuningData, training_data
from subbyte.methods.finetune.tune import Outcome, Tuning, tune
from subbyte.numerics.qparams import QuantParams, TensorQParams, signed_integers, weight_of_signed
from subbyte.numerics.qspec import QSpec
from subbyte.placement.simulation import Simulation, simulate

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
def rounded() -> Simulation:
    return quantize(model(), BATCHES, Recipe(weights=3, activations=3, method="range"))


def every_eighth(count: int) -> torch.Tensor:
    return torch.arange(7, count, 8)


def data_of(simulation: Simulation) -> TuningData:
    batches = [(batch,) for batch in BATCHES]
    found = training_data(simulation.float_model, batches, 40, every_eighth)
    assert found is not None
    return found


def tuning(steps: int, rates: Rates, features: float = 100.0) -> Tuning:
    return Tuning(steps, 16, rates, features)


def tuned(
    before: Simulation,
    how: Tuning,
    data: TuningData | None = None,
    params: QuantParams | None = None,
) -> tuple[QuantParams, Outcome]:
    own = before.params if params is None else params
    data = data_of(before) if data is None else data
    return tune(before.float_model, before.placement, own, data, how, Context())


def outputs(before: Simulation, params: QuantParams | None = None) -> torch.Tensor:
    own = before.params if params is None else params
    with torch.no_grad():
        found: torch.Tensor = simulate(before.float_model, before.placement, own)(IMAGES)
    return found


def loss(before: Simulation, params: QuantParams) -> float:
    with torch.no_grad():
        return float(loss_of_outputs().mean(outputs(before, params), model()(IMAGES), ()))


def with_weights(
    before: Simulation, change: Callable[[TensorQParams, QSpec], TensorQParams]
) -> QuantParams:
    """The parameters with those of the weights changed."""
    params = before.params
    weights = before.placement.of_role("weight")
    return params.with_tensors({t.key: change(params.tensors[t.key], t.spec) for t in weights})


def integers(before: Simulation, params: QuantParams) -> list[torch.Tensor]:
    found = [params.tensors[tensor.key].integers for tensor in before.placement.of_role("weight")]
    return [value for value in found if value is not None]


def test_it_finds_back_from_wrong_scales_with_the_same_integers(rounded: Simulation) -> None:
    wrong = with_weights(rounded, lambda params, _: replace(params, scale=1.3 * params.scale))
    found, outcome = tuned(rounded, tuning(60, Rates(1e-2, 1e-2, 1e-2)), params=wrong)
    assert outcome.kept
    pairs = zip(integers(rounded, wrong), integers(rounded, found), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert loss(rounded, found) < 0.4 * loss(rounded, wrong)


def test_what_it_was_given_stays_as_it_is(rounded: Simulation) -> None:
    before, params = outputs(rounded), rounded.params
    found, outcome = tuned(rounded, tuning(5, Rates(1e-2, 1e-2, 1e-2, 0.1)))
    assert outcome.kept
    assert torch.equal(outputs(rounded, params), before)
    with torch.no_grad():
        assert torch.allclose(rounded.float_model(IMAGES), model()(IMAGES), atol=1e-4)
    assert set(found.biases) == {"0.bias", "2.bias", "5.bias"}
    assert not params.biases
    own = rounded.float_model
    assert all(parameter.grad is None for parameter in own.model.parameters())


def test_biases_are_learned(rounded: Simulation) -> None:
    found, outcome = tuned(rounded, tuning(5, Rates(0, 0, 1e-2)))
    assert outcome.kept
    with torch.no_grad():
        moved = (found.biases["0.bias"] - model()[0].bias).abs()
    assert bool((moved > 1e-4).all())
    for key, params in rounded.params.tensors.items():
        assert torch.allclose(found.tensors[key].scale, params.scale, rtol=1e-6)


def test_large_images_are_learned_from_a_few_at_a_time(
    rounded: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, found = data_of(rounded), []
    monkeypatch.setattr(TuningData, "varied", lambda self, part, _: self.images(part))
    plain = loss_of_outputs()
    for pixels, most in ((tune_module.PIXELS_IN_MEMORY, 16), (5 * own.pixels, 5)):
        sizes: list[int] = []

        def counting(outputs: Any, targets: Any, args: tuple[Any, ...]) -> torch.Tensor:
            sizes.append(len(outputs))  # noqa: B023 - called within this round
            return plain.mean(outputs, targets, args)

        monkeypatch.setattr(tune_module, "PIXELS_IN_MEMORY", pixels)
        loss = replace(plain, mean=counting)
        counted = simulate(
            replace(rounded.float_model, output_loss=loss), rounded.placement, rounded.params
        )
        params, outcome = tuned(counted, tuning(3, Rates(1e-3, 1e-3, 1e-3), 0.0), own)
        assert outcome.kept
        assert max(sizes) == most
        found.append(outputs(rounded, params))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same(rounded: Simulation) -> None:
    found = [tuned(rounded, tuning(5, Rates(integers=0.1)))[0] for _ in range(2)]
    assert torch.equal(*(outputs(rounded, params) for params in found))


def test_integers_move_where_they_are_asked_to() -> None:
    """Integers that were shifted by one come back, at least in part."""
    before = quantize(model(), BATCHES, Recipe(weights=4, activations=8, method="range"))
    generator = torch.Generator().manual_seed(1)

    def shifted(params: TensorQParams, spec: QSpec) -> TensorQParams:
        signed = signed_integers(params, spec)
        by = torch.randint(-1, 2, signed.shape, generator=generator)
        by[torch.rand(signed.shape, generator=generator) < 0.7] = 0
        return weight_of_signed(signed + by, params.scale, params.zero_point, spec)

    wrong = with_weights(before, shifted)
    losses = {"before": loss(before, wrong)}
    for name, rate in (("stay", 0.0), ("move", 0.1)):
        found, outcome = tuned(before, tuning(100, Rates(integers=rate)), params=wrong)
        assert outcome.kept or name == "stay"
        losses[name] = loss(before, found)
        pairs = zip(integers(before, wrong), integers(before, found), strict=True)
        same = [torch.equal(a, b) for a, b in pairs]
        assert all(same) if name == "stay" else not any(same)
        specs = [tensor.spec for tensor in before.placement.of_role("weight")]
        for spec, value in zip(specs, integers(before, found), strict=True):
            assert spec.low <= int(value.min()) <= int(value.max()) <= spec.high
    assert losses["move"] < 0.7 * losses["stay"] <= 0.7 * losses["before"]


def test_integers_of_more_bits_move_by_more_steps() -> None:
    simulation = quantize(model(), BATCHES, Recipe(weights=4, method="range"))
    groups = Parameters(simulation).groups(Rates(integers=0.02))
    rates = {group["params"][0].numel(): group["lr"] for group in groups[3:]}
    middle, outer = 8 * 8 * 9, 8 * 3 * 9 + 5 * 128  # first and last layer have 8 bits
    assert rates == pytest.approx({middle: 0.04, outer: 0.16})


def test_what_is_learned_is_what_is_put(rounded: Simulation) -> None:
    """The student while it learns, without rounded biases, and the parameters afterwards."""
    own = rounded.params
    student = simulate(rounded.float_model, rounded.placement, own)
    parameters = Parameters(student)
    with torch.no_grad():
        for weight in parameters.weights.values():
            weight.log_scale.add_(0.1)
            weight.signed.add_(0.3)  # not enough to be rounded to another one
        with parameters.in_place():
            learned = student(IMAGES)
        parameters.put()
        assert torch.allclose(student(IMAGES), learned, atol=0.05 * float(learned.abs().max()))
    changed = student.params
    for tensor in rounded.placement.of_role("weight"):
        scale = changed.tensors[tensor.key].scale / own.tensors[tensor.key].scale
        assert torch.allclose(scale, torch.full_like(scale, 0.1).exp(), rtol=1e-5)
    pairs = zip(integers(rounded, own), integers(rounded, changed), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_loss_that_is_not_a_number_leaves_all_as_it_was(rounded: Simulation) -> None:
    wrong = data_of(rounded)
    wrong.inputs[0][0] = float("inf")
    found, outcome = tuned(rounded, tuning(5, Rates()), wrong)
    assert not outcome.kept
    assert outcome.refused == dict.fromkeys((16.0, 4.0, 1.0), "its loss was not a number")
    assert torch.equal(outputs(rounded, found), outputs(rounded))


def test_what_is_clearly_worse_on_images_held_out_is_not_kept(rounded: Simulation) -> None:
    few = data_of(rounded)
    learned = [i for i in range(40) if i % 8 != 7]
    few.inputs[0][learned] = 1e-3 * few.inputs[0][learned]  # nothing to learn from
    found, outcome = tuned(rounded, tuning(40, Rates(0.3, 0.3, 0.3), 0), few)
    assert not outcome.kept
    assert len(outcome.refused) == 3
    assert all("images held out had grown" in why for why in outcome.refused.values())
    assert outcome.loss == outcome.loss_before
    assert outcome.loss is not None
    assert outcome.loss > 0
    assert torch.equal(outputs(rounded, found), outputs(rounded))


def test_without_images_held_out_what_was_learned_stands(rounded: Simulation) -> None:
    data = replace(data_of(rounded), held_out=torch.zeros(0, dtype=torch.int64))
    _, outcome = tuned(rounded, tuning(2, Rates(1e-3, 1e-3, 1e-3)), data)
    assert outcome.kept
    assert outcome.loss is None
