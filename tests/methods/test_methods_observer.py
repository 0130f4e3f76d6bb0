from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subbyte

STEPS = 12


class Losses:
    """Takes what methods report."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str, bool], list[tuple[int, float]]] = {}

    def loss(self, stage: str, name: str, step: int, value: float, *, held_out: bool) -> None:
        self.of.setdefault((stage, name, held_out), []).append((step, value))

    def learned(self) -> dict[str, list[tuple[int, float]]]:
        return {name: its for (_, name, held_out), its in self.of.items() if not held_out}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def quantized(method: dict[str, Any], observer: Losses | None) -> Any:
    torch.manual_seed(0)
    recipe = subbyte.Recipe(weights=3, activations=4, first_last=None, method=method)
    images = torch.randn(48, 3, 8, 8)
    return subbyte.quantize(Net().eval(), [images[:24], images[24:]], recipe, observer=observer)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("brecq", "qdrop")]


@pytest.mark.parametrize("name", ["adaround", *SLOW])
def test_each_step_of_each_block_is_reported(name: str) -> None:
    losses, method = Losses(), {"name": name, "steps": STEPS}
    if name == "brecq":
        method["activation_steps"] = STEPS
    found = quantized(method, losses)
    blocks = [block["block"] for block in found.reported["blocks"]]
    learned = losses.learned()
    assert blocks
    assert set(blocks) <= set(learned) <= {"first", "second", "head"}
    for its in learned.values():
        assert [step for step, _ in its] == list(range(STEPS))
        assert all(loss >= 0 for _, loss in its)
    plain = quantized(method, None)
    rows = [subbyte.layers(model) for model in (found, plain)]
    assert rows[0] == rows[1]


def test_the_tuning_reports_its_steps_and_the_images_held_out() -> None:
    losses = Losses()
    found = quantized({"name": "subbyte", "steps": STEPS}, losses)
    tuning = found.reported["tuning"]
    assert tuning["loss_before"] is not None
    tries = len(tuning["refused"]) + tuning["kept"]
    learned = losses.of["tuning the network", "", False]
    begun = [i for i, (step, _) in enumerate(learned) if step == 0]
    assert len(begun) == tries
    assert [step for step, _ in learned[begun[-1] :]][:3] == [0, 1, 2]
    held_out = losses.of["tuning the network", "", True]
    assert held_out[0] == (0, pytest.approx(tuning["loss_before"], rel=1e-6))
    if tuning["kept"]:
        assert held_out[-1] == (STEPS, pytest.approx(tuning["loss"], rel=1e-6))


def test_the_search_reports_a_loss_that_never_grows() -> None:
    losses = Losses()
    quantized({"name": "lapq", "max_evaluations": 30}, losses)
    (its,) = losses.learned().values()
    begun = [i for i, (step, _) in enumerate(its) if step == 0]
    assert len(begun) == 2  # on a quarter of the images, then on all of them
    for part in (its[: begun[1]], its[begun[1] :]):
        values = [loss for _, loss in part]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("method", ["range", "bias_correction"])
def test_a_method_that_learns_nothing_reports_nothing(method: str) -> None:
    losses: Losses = Losses()
    quantized({"name": method}, losses)
    assert not losses.of
