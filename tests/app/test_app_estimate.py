"""How long a run takes, roughly, and which recipe takes a minute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subbyte.app import estimate
from subbyte.app.estimate import Look, look_at, memory, seconds, shorter
from subbyte.app.experiment import Experiment
from subbyte.app.setup import set_up
from subbyte.bit_search.settings import read_recipe
from subbyte.errors import SubbyteError
from subbyte.recipe import Recipe
from subbyte.utils.lines import duration
from subbyte.utils.progress import Silent

# ResNet-50 at 224 pixels, 0.1 seconds an image.
LOOK = Look(seconds=0.1, largest=3_211_264, multiply_adds=4.1e9, pixels=224 * 224)


def test_a_look_counts_operations_and_the_largest_tensor() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 5))
    found = look_at(model, (torch.randn(9, 3, 8, 8),))
    assert found.multiply_adds == 64 * 3 * 8 * 9 + 8 * 64 * 5
    assert found.largest == 8 * 64 * 4
    assert found.pixels == 64
    assert 0 < found.seconds < 1


def test_a_model_that_does_not_run_is_refused() -> None:
    grey = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    with pytest.raises(SubbyteError, match=r"does not run on a batch of shape .*channels"):
        look_at(grey, (torch.randn(2, 3, 8, 8),))


def test_what_takes_longer_is_expected_to() -> None:
    quick, auto = Recipe(), Recipe(weights=4)
    learned = Recipe(weights=4, method={"name": "qdrop", "steps": 2000})
    times = [seconds(recipe, LOOK, 512) for recipe in (quick, auto, learned)]
    assert times == sorted(times)
    assert seconds(auto, LOOK, 512) > estimate.TOO_LONG
    plain = Recipe(method="range")
    assert seconds(plain, LOOK, 256) == seconds(plain, LOOK, 512) / 2
    # `subbyte` takes 1,024 images at most.
    assert seconds(auto, LOOK, 1024) == seconds(auto, LOOK, 5000)


def test_a_search_builds_several_within_its_time() -> None:
    one = seconds(Recipe(weights=4, method={"name": "subbyte", "longer": 4}), LOOK, 512)
    assert one > seconds(Recipe(weights=4), LOOK, 512)
    asked = read_recipe({"search": {"max_drop": 1, "builds": 3}})
    assert seconds(asked, LOOK, 512) == pytest.approx(4 * one)
    limited = read_recipe({"search": {"max_drop": 1, "builds": 3, "time_limit": 0.5}})
    assert seconds(limited, LOOK, 512) == 30


def test_caches_count_up_to_their_limit() -> None:
    few, many, most = (memory(Recipe(weights=4), LOOK, images, 32) for images in (8, 512, 1024))
    assert few < many == most
    plain = memory(Recipe(), LOOK, 512, 32)
    assert many - plain == pytest.approx(min(2**30, 3 * 512 * LOOK.largest))


@pytest.mark.parametrize(
    ("look", "images", "says"),
    [
        (Look(1e-3, 1, 1e6, 64), 512, "`method: bias_correction` takes about 2 s"),
        (LOOK, 512, "`method: range` with `data.calibration_images: 75` takes about 1 min"),
        (Look(100.0, 1, 1e6, 64), 512, "`data.calibration_images: 16` takes about 3.6 h"),
    ],
)
def test_which_recipe_takes_a_minute(look: Look, images: int, says: str) -> None:
    assert says in shorter(Recipe(weights=4), look, images)


def test_durations() -> None:
    assert [duration(x) for x in (0.2, 59, 61, 60 * 90, 7200)] == [
        "1 s", "59 s", "1 min", "90 min", "2.0 h",
    ]  # fmt: skip


def test_only_long_work_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(
        model={"name": "digits"},
        data={"name": "digits", "calibration_images": 16, "evaluation_images": 16},
        variants={"w8a8": {}, "w4a4": {"weights": 4, "activations": 4}},
        runtimes=[],
    )
    setup = set_up(experiment, (), Silent())
    assert estimate.expected(setup, ["w8a8"]) == []
    assert estimate.expected(setup, []) == []
    monkeypatch.setattr(estimate, "LONG", 1e-3)
    monkeypatch.setattr(estimate, "TOO_LONG", 1e-3)
    whole, *long = estimate.expected(setup, ["w8a8", "w4a4"])
    assert "for w8a8, w4a4, and up to" in whole
    assert [sentence.split(":")[0] for sentence in long] == ["w8a8", "w4a4"]
