"""TrainingSteps are the same for every student, whether they are kept or made again."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import nn

from subbyte import Recipe, api, quantize
from subbyte.detectors.common.output_loss import Readable, detection_loss
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


class Scores(nn.Module):
    """Scores of 64 places, none of them high in an empty image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(4 * self.conv(x)).flatten(2)


def test_errors_count_alike_in_images_with_much_and_with_next_to_nothing() -> None:
    def read(outputs: torch.Tensor, _: object) -> Readable:
        boxes = torch.zeros(len(outputs), 64, 4)
        return Readable(boxes, torch.ones(()), outputs.transpose(1, 2))

    torch.manual_seed(0)
    net = Scores().eval()
    images = IMAGES.clone()
    with torch.no_grad():
        net.conv.bias.fill_(-1.0)
    images[::2] *= 1e-3  # next to nothing in every other one
    float_model = replace(api.capture(net, (images,)), output_loss=detection_loss(read))
    recipe = Recipe(weights=2, activations=4, method="range", first_last=None)
    simulation = quantize(net, [images], recipe)
    student = simulate(float_model, simulation.placement, simulation.params)
    teacher = simulate(float_model, simulation.placement, QuantParams())
    data = TuningData([images], [False], torch.arange(4), 1.0)
    with torch.no_grad():
        exact = net(images[4:])  # the first four are held out
        best = exact.amax(1)
        usual = float((exact.square().sum() + best.sum()) / 20)  # boxes: four times 0.5² a place
        for at_once in (1, 3, 8):
            steps, total, errors = TrainingSteps(teacher, [], data, 8, at_once, seed=3), 0.0, 0.0
            for part in steps.at(0):
                given = student.raw(*part.args)
                loss = float_model.output_loss.mean(given, part.targets, ())
                total += part.share * part.energy * float(loss)
                errors += float((given - net(*part.args)).square().sum())
            assert total == pytest.approx(errors / (8 * usual), rel=1e-4)
            assert errors > 0


def same(found: StepPart, expected: StepPart) -> bool:
    pairs = zip(
        [*found.args, found.targets, *found.features],
        [*expected.args, expected.targets, *expected.features],
        strict=True,
    )
    return all(torch.equal(a, b) for a, b in pairs)
