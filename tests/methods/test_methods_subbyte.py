"""The method `subbyte`: nearer to the float model, repeatable, and safe on odd input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn

from subbyte import Recipe, SubbyteError, export, load, quantize, save
from subbyte.graph.output_loss import loss_of_outputs
from subbyte.methods import subbyte as method
from subbyte.methods.finetune.parameters import Rates
from subbyte.methods.finetune.training_data import TuningData
from subbyte.methods.subbyte import Options, steps_for, tuning_of
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

T = TypeVar("T")
IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(3)
BATCHES = list(IMAGES[:64].split(24))  # the last one is smaller
OTHERS = IMAGES[64:]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        return x + self.project(y)


def model() -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(8, 6)
    with torch.no_grad():
        last.weight.mul_(20)  # so that classes differ
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(
        *stem, Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last
    ).eval()


def recipe(**options: float) -> Recipe:
    return Recipe(weights=3, activations=4, method={"name": "subbyte", "steps": 10, **options})


def distance(quantized: nn.Module) -> float:
    with torch.no_grad():
        return float(loss_of_outputs().mean(quantized(OTHERS), model()(OTHERS), ()))


@pytest.fixture(scope="module")
def quantized() -> Simulation:
    return quantize(model(), BATCHES, recipe())


def test_it_is_nearer_to_float_than_rounding_on_other_images(
    quantized: Simulation,
) -> None:
    nearest = quantize(model(), BATCHES, Recipe(weights=3, activations=4, method="range"))
    assert distance(quantized) < 0.7 * distance(nearest)


def test_the_same_seed_gives_the_same_model_and_the_users_stays(quantized: Simulation) -> None:
    torch.manual_seed(99)  # not what decides
    own = model()
    before = [p.clone() for p in own.parameters()]
    again = quantize(own, BATCHES, recipe())
    assert torch.equal(again(OTHERS), quantized(OTHERS))
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))


def test_weights_have_integers_of_their_bits(quantized: Simulation) -> None:
    params = quantized.params
    for tensor in quantized.placement.of_role("weight"):
        integers = params.tensors[tensor.key].integers
        assert integers is not None
        assert tensor.spec.low <= int(integers.min()) <= int(integers.max()) <= tensor.spec.high


def test_the_float_model_is_not_written_to(quantized: Simulation) -> None:
    with torch.no_grad():
        assert torch.allclose(quantized.float_model(OTHERS), model()(OTHERS), atol=1e-5)
    assert quantized.params.biases  # although others were found


def test_the_sqnr_of_an_activation_is_that_of_the_scale_in_the_result(
    quantized: Simulation,
) -> None:
    """Against the values themselves in the float network, of which the histogram's are bins."""
    float_model = simulate(quantized.float_model, quantized.placement, QuantParams())
    before = quantize(model(), BATCHES, recipe(steps=0))
    for tensor, own in quantized.activations():
        seen: list[torch.Tensor] = []
        handle = float_model.quantizer(tensor.key).register_forward_pre_hook(
            lambda _, args, into=seen: into.append(args[0])
        )
        for batch in BATCHES:
            float_model(batch)
        handle.remove()
        x = torch.cat(seen)
        with torch.no_grad():
            noise = (own(x) - x).double().square().sum()
        expected = 10 * float((x.double().square().sum() / noise).log10())
        assert own.sqnr_db == pytest.approx(expected, abs=0.3)
        assert not torch.equal(own.scale, before.quantizer(tensor.key).scale)  # it was tuned


def test_what_was_found_is_saved_and_exported(quantized: Simulation, tmp_path: Path) -> None:
    save(quantized, tmp_path / "model.safetensors")
    again = load(model(), tmp_path / "model.safetensors")
    assert torch.equal(again(OTHERS), quantized(OTHERS))
    export(quantized, tmp_path / "model.onnx", IMAGES[:2])
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"input": OTHERS.numpy()})
    expected = quantized(OTHERS).detach()
    agreement = (torch.from_numpy(found).argmax(1) == expected.argmax(1)).float().mean()
    assert float(agreement) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 3, 7])
def test_few_images(images: int) -> None:
    found = quantize(model(), [IMAGES[:images]], recipe(steps=3))
    assert bool(torch.isfinite(found(IMAGES)).all())
    assert len(found.reported["blocks"]) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"activations": None},
        {"weights": None},
        {"per_channel": False},
        {"weights": 8, "activations": 8},
        {"first_last": None, "equalize": True},
    ],
)
def test_any_recipe(change: dict[str, object]) -> None:
    found = quantize(model(), BATCHES, recipe(steps=2).model_copy(update=change))
    assert bool(torch.isfinite(found(IMAGES)).all())


def test_a_dead_channel_and_a_layer_that_never_varies() -> None:
    own = model()
    with torch.no_grad():
        own[0].weight[2], own[0].bias[2] = 0, -1  # nothing comes through
        own[2].expand.weight.zero_()  # the same at every position of every image
    found = quantize(own, BATCHES, recipe(steps=2))
    assert bool(torch.isfinite(found(IMAGES)).all())


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SubbyteError, match="stepz"):
        quantize(model(), BATCHES, recipe(stepz=3))


def test_large_images_and_large_networks_get_fewer_and_smaller_steps() -> None:
    assert steps_for(32 * 32, 41e6, 32) == (120, 32)  # ResNet-20 on CIFAR-10
    assert steps_for(224 * 224, 0.3e9, 32) == (29, 16)  # 24 million pixels are 478 such images
    assert steps_for(224 * 224, 4.1e9, 32) == (29, 16)  # ResNet-50
    assert steps_for(224 * 224, 17.6e9, 32) == (0, 16)  # ViT-B/16: 170 images are 10 steps
    assert steps_for(1, 0.0, 32) == (120, 32)  # no image, and nothing that counts
    assert steps_for(8000 * 8000, 1e12, 1) == (0, 1)


class Counting(Silent):
    """Counts the steps of the tuning."""

    def __init__(self) -> None:
        self.steps = 0

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            self.steps += description == "tuning the network"
            yield item


@pytest.mark.parametrize(("steps", "least", "most"), [(0, 0, 0), (3, 3, 9)])
def test_as_many_steps_as_are_asked_for(steps: int, least: int, most: int) -> None:
    progress = Counting()
    found = quantize(model(), BATCHES, recipe(steps=steps), progress=progress)
    assert least <= progress.steps <= most  # once for each of up to three rates
    tuning = found.reported.get("tuning")
    assert (tuning is None) == (steps == 0)
    if tuning is not None:
        assert tuning["steps"] == steps
        assert tuning["kept"] == (tuning["rates"] is not None) == ("why" not in tuning)
        tries = len(tuning["refused"]) + tuning["kept"]
        assert progress.steps == steps * tries


class Regions(nn.Module):
    """A model of a list of images, which cannot be empty, with two regions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 4, 3)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.backbone(torch.stack(images))))
        return found


@pytest.mark.parametrize("images", [3, 40])
def test_regions_with_few_images_and_with_enough_to_hold_some_out(images: int) -> None:
    own = Regions().eval()
    regions = recipe(steps=3).model_copy(
        update={"regions": ("backbone", "head"), "first_last": None}
    )
    found = quantize(own, [list(IMAGES[:images])], regions)
    assert [note["block"] for note in found.reported["blocks"]] == ["backbone", "head"]
    assert (found.reported["tuning"]["loss"] is None) == (images == 3)
    nearest = quantize(own, [list(IMAGES[:images])], regions.model_copy(update={"method": "range"}))
    with torch.no_grad():
        exact = own(list(OTHERS))
        errors = [float((x(list(OTHERS)) - exact).square().mean()) for x in (found, nearest)]
    if images == 40:
        assert errors[0] < 0.8 * errors[1]


class Flat(nn.Module):
    """Gives the numbers of all images in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(x).flatten()
        return found


@pytest.mark.slow
def test_what_gives_no_row_an_image_is_fitted_and_it_is_reported_that_nothing_is_tuned() -> None:
    found = quantize(Flat().eval(), BATCHES, recipe())
    assert found.reported["tuning"] == {"steps": 0, "kept": False, "why": method.NO_ROWS}
    assert len(found.reported["blocks"]) == 8
    untuned = quantize(Flat().eval(), BATCHES, recipe(steps=0))
    assert "tuning" not in untuned.reported  # not asked for


def test_with_the_few_steps_of_large_images_all_rates_are_smaller() -> None:
    def data(side: int) -> TuningData:
        nothing = torch.zeros(0, dtype=torch.int64)
        return TuningData([torch.zeros(1, 3, side, side)], [False], nothing, 0.0)

    options = Options(integers=0.04)
    usual, few = (tuning_of(options, data(side)) for side in (8, 220))
    asked = tuning_of(options.model_copy(update={"steps": 30}), data(220))
    assert usual.rate_factors == asked.rate_factors == (16, 4, 1)
    assert few.rate_factors == (4, 1)
    assert [tuning.steps for tuning in (usual, few, asked)] == [120, 30, 30]
    assert [tuning.batch for tuning in (usual, few, asked)] == [32, 16, 32]
    assert usual.rates == asked.rates == Rates(integers=0.04)
    longer = tuning_of(options.model_copy(update={"longer": 4}), data(220))
    assert (longer.steps, longer.rates) == (120, few.rates)
    rates = usual.rates
    assert few.rates == Rates(rates.activations / 8, rates.weights / 8, rates.biases / 8, 0.005)
