from __future__ import annotations

import pytest
import torch
from torch import nn

import subbyte
from subbyte.calibration import clipping
from subbyte.data import DataConfig, open_data
from subbyte.models import ModelConfig, load
from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Simulation


def counted(values: int, clipped: int) -> Clipping:
    made = Clipping()
    made.add(torch.arange(values) >= clipped)
    return made


@pytest.fixture(scope="module")
def model() -> Simulation:
    """One convolution of ones quantized to 8 bits, calibrated on [−1, 1]; and a linear layer."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    images = torch.linspace(-1, 1, 40).reshape(10, 1, 2, 2)
    return subbyte.quantize(network, [images], subbyte.Recipe(ranges="minmax"))


def index(model: Simulation, layer: str) -> int:
    roles = [(tensor.layer, tensor.role) for tensor in model.placement.tensors]
    return roles.index((layer, "activation"))


def test_values_beyond_the_range_are_counted(model: Simulation) -> None:
    images = torch.tensor([-5.0, -1.2, -0.9, 0.0, 0.3, 0.99, 1.0, 1.5, 2.0, 0.0, 0.0, 0.0])
    with clipping.counting(model) as counts:
        for _ in range(2):  # batches add up
            model(images.reshape(3, 1, 2, 2))
    assert len(counts) == len(model.placement.tensors) == 4
    first = counts[index(model, "0")]
    assert (first.values, int(first.clipped)) == (24, 8)
    assert clipping.share(first) == pytest.approx(1 / 3)
    weights = [
        c for c, t in zip(counts, model.placement.tensors, strict=True) if t.role == "weight"
    ]
    assert [clipping.share(count) for count in weights] == [None, None]
    total = sum(count.values for count in counts)
    assert total == 24 + 2 * 3 * 8
    clipped = sum(int(count.clipped) for count in counts)
    assert clipping.share(*counts) == clipped / total


def test_counting_changes_no_output_and_ends(model: Simulation) -> None:
    images = 2 * torch.randn(5, 1, 2, 2)
    before = model(images)
    with clipping.counting(model) as counts:
        assert torch.equal(model(images), before)
    values = sum(count.values for count in counts)
    model(images)
    assert sum(count.values for count in counts) == values > 0


def test_a_model_without_quantizers_counts_nothing() -> None:
    with clipping.counting(nn.Identity()) as counts:
        assert counts == []
    assert clipping.share() is None


def test_a_layer_that_clips_much_more_is_reported(model: Simulation) -> None:
    def note(first: tuple[float, float], last: tuple[float, float]) -> str | None:
        shares = {index(model, "0"): first, index(model, "3"): last}
        sides = [
            [counted(*((1000, round(1000 * shares[i][side])) if i in shares else (0, 0)))
             for i in range(4)]
            for side in range(2)
        ]  # fmt: skip
        return clipping.note(model, *sides)

    assert note((0.4, 0.001), (0.0, 0.0)) == (
        "at 0, 40.0% of the values are clipped on the evaluation images and 0.1% on those of "
        "calibration: calibrate on images like the evaluated ones"
    )
    assert "at 3, 50.0%" in str(note((0.4, 0.001), (0.5, 0.2)))
    assert "20.0% on those of calibration (1 more such tensor)" in str(
        note((0.4, 0.001), (0.5, 0.2))
    )
    assert note((0.3, 0.2), (0.0, 0.0)) is None  # clipped on purpose, on both
    assert note((0.005, 0.0), (0.0, 0.3)) is None  # hardly any, and fewer


RECIPES = {
    "w8a8": subbyte.Recipe(),
    "w4a4 percentile": subbyte.Recipe(
        weights=4, activations=4, ranges="percentile", method="bias_correction"
    ),
    "w8a8 minmax": subbyte.Recipe(ranges="minmax"),
    "w2a2": subbyte.Recipe(weights=2, activations=2, method="bias_correction"),
    "w4a4": subbyte.Recipe(weights=4, activations=4),
}
SOME = [
    "w4a4 percentile",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("w8a8", "w8a8 minmax", "w2a2")),
]


class Digits:
    """The bundled model and digits, and what is told of a model calibrated on other images."""

    def __init__(self) -> None:
        spec = load(ModelConfig(name="digits"))
        config = DataConfig(name="digits", calibration_images=128)
        data = open_data(config, spec.preprocessing, seed=0, batch_size=128).labelled(10, None)
        self.module = spec.module
        self.mean, self.std = data.preprocessing.mean[0], data.preprocessing.std[0]
        (batch,) = data.calibration
        self.brightness = batch["inputs"] * self.std + self.mean  # 0: black, 1: white
        self.evaluation = list(data.evaluation)

    @torch.no_grad()
    def told(self, brightness: torch.Tensor, recipe: str) -> tuple[str | None, float]:
        """The note on calibration with images of this brightness, and the top-1 they lead to."""
        images = (brightness - self.mean) / self.std
        model = subbyte.quantize(self.module, [images], RECIPES[recipe])
        with clipping.counting(model) as calibrated:
            model(images[:64])
        with clipping.counting(model) as evaluated:
            outputs = torch.cat([model(batch["inputs"]) for batch in self.evaluation])
        labels = torch.cat([batch["targets"] for batch in self.evaluation])
        top1 = (outputs.argmax(1) == labels).double().mean().item()
        return clipping.note(model, evaluated, calibrated), top1


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_proper_calibration_is_not_warned_of(digits: Digits, recipe: str) -> None:
    assert digits.told(digits.brightness[:32], recipe)[0] is None


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SOME)
def test_calibration_far_from_the_evaluation_is_warned_of(digits: Digits, recipe: str) -> None:
    noise = torch.rand(digits.brightness.shape, generator=torch.Generator().manual_seed(0))
    for images in (
        digits.brightness * 0.5,  # dark
        0.6 - 0.6 * digits.brightness,  # inverted and faint
        noise * 0.5,
        torch.zeros_like(noise),
    ):
        note, _ = digits.told(images, recipe)
        assert str(note).startswith("at conv1, ")


# Not the default rule, which clips what hardly matters on the images it was shown.
@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["w4a4 percentile", pytest.param("w8a8 minmax", marks=pytest.mark.slow)]
)
def test_other_images_of_the_same_range_clip_nothing_and_do_no_harm(
    digits: Digits, recipe: str
) -> None:
    _, proper = digits.told(digits.brightness, recipe)
    noise = torch.rand(digits.brightness.shape, generator=torch.Generator().manual_seed(0))
    for images in (1 - digits.brightness, noise):
        note, top1 = digits.told(images, recipe)
        assert note is None
        assert top1 > proper - 0.01
