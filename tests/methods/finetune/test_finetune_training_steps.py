"""TrainingSteps are the same for every student, whether they are kept or made again."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.methods.finetune import training_steps as module
from subbyte.methods.finetune.features import feature_keys
from subbyte.methods.finetune.training_data import TuningData
from subbyte.methods.finetune.training_steps import StepPart, TrainingSteps
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import simulate

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("room", [2**27, 20_000, 0])
def test_later_students_get_what_the_first_one_got(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", room)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    quantized = quantize(net, [IMAGES], Recipe(weights=4, activations=4, method="range"))
    teacher = simulate(quantized.float_model, quantized.placement, QuantParams())
    data = TuningData([IMAGES], [False], torch.arange(4), 1.0)

    def fresh() -> TrainingSteps:
        return TrainingSteps(teacher, feature_keys(quantized), data, 8, 5, seed=3)

    whole, broken = fresh(), fresh()
    expected = [list(whole.at(step)) for step in range(6)]
    assert [[part.share for part in step] for step in expected] == [[5 / 8, 3 / 8]] * 6
    next(broken.at(0))  # a student that gave up within its first step
    for student in (whole, broken):
        for _ in range(2):
            found = [list(student.at(step)) for step in range(6)]
            assert all(map(same, chain(*found), chain(*expected)))
    with torch.no_grad():
        for part in expected[2]:
            torch.testing.assert_close(part.targets, net(*part.args))


def same(found: StepPart, expected: StepPart) -> bool:
    pairs = zip(
        [*found.args, found.targets, *found.features],
        [*expected.args, expected.targets, *expected.features],
        strict=True,
    )
    return all(torch.equal(a, b) for a, b in pairs)
