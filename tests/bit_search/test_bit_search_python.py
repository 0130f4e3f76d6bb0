"""`subbyte.search` on the bundled digits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

import subbyte
from subbyte import models
from subbyte.data import open_data
from subbyte.data.config import DataConfig
from subbyte.errors import BudgetMissedError
from subbyte.utils.progress import Silent

T = TypeVar("T")
Batches = list[tuple[torch.Tensor, torch.Tensor]]
FAST = {"recipe": {"method": {"name": "subbyte", "steps": 0}}, "builds": 1, "weights": [2, 8]}


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Batches, Batches]:
    spec = models.load(models.ModelConfig(name="digits"))
    config = DataConfig(name="digits", calibration_images=64, evaluation_images=120)
    data = open_data(config, spec.preprocessing, seed=0, batch_size=32, progress=Silent())
    found = data.labelled(10, spec.classes)
    both = [
        [(batch["inputs"], torch.as_tensor(batch["targets"])) for batch in side]
        for side in (found.calibration, found.evaluation)
    ]
    return spec.module.eval(), both[0], both[1]


@pytest.mark.slow
def test_a_search_gives_a_model_and_its_proof(digits: Any) -> None:
    model, calibration, evaluation = digits
    found = subbyte.search(model, calibration, evaluation, max_drop=4, **FAST)
    assert found.met
    confirmed = found.confirmed["onnxruntime"]
    assert confirmed["images"] == 60
    assert confirmed["sentence"].endswith("asked for 4")
    weights = {
        row["layer"]: row["bits"]
        for row in subbyte.layers(found.quantized)
        if row["role"] == "weight"
    }
    assert weights == found.frontier[0]["weights"]
    again = subbyte.quantize(model, calibration, found.recipe)
    images = evaluation[0][0]
    torch.testing.assert_close(again(images), found.quantized(images), rtol=0, atol=0)


class Tunings(Silent):
    """The configurations of which a tuning was begun."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        if description.endswith("tuning the network"):
            self.of.append(description.split(",")[0].split(" of ")[0])
        return super().track(items, description, total)


@pytest.mark.slow
def test_behind_a_tuning_that_gains_nothing_none_is_tuned(digits: Any) -> None:
    """One step changes next to nothing, so only the first of the configurations takes it."""
    model, calibration, evaluation = digits
    progress = Tunings()
    found = subbyte.search(
        model,
        calibration,
        evaluation,
        max_drop=0.00005,
        weights=[5, 6, 8],
        score=lambda outputs, y: outputs.log_softmax(1).gather(1, y[:, None])[:, 0],
        recipe={"method": {"name": "subbyte", "steps": 1}},
        builds=3,
        runtimes=(),
        progress=progress,
    )
    assert len(found.frontier) > 1
    assert set(progress.of) == {"configuration 1"}
    again = subbyte.quantize(model, calibration, found.recipe)
    images = evaluation[0][0]
    torch.testing.assert_close(again(images), found.quantized(images), rtol=0, atol=0)


@pytest.mark.slow
def test_a_score_of_ones_own_decides(digits: Any) -> None:
    model, calibration, evaluation = digits
    seen: list[int] = []

    def score(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(len(targets))
        return outputs.log_softmax(1).gather(1, targets[:, None])[:, 0]

    found = subbyte.search(
        model, calibration, evaluation, max_drop=0.2, score=score, runtimes=(), **FAST
    )
    assert set(found.confirmed) == {"simulation"}
    assert "of the score lost" in found.confirmed["simulation"]["sentence"]
    assert sum(seen) >= 4 * 60
    with torch.no_grad():
        before = [model(x).log_softmax(1).gather(1, y[:, None])[:, 0] for x, y in evaluation]
    # The mean over all is that over the two parts, each of half of the images.
    part = found.confirmed["simulation"]["float_metric"], found.frontier[0]["float_metric"]
    assert sum(part) / 2 == pytest.approx(float(torch.cat(before).mean()), rel=1e-4)


def test_evaluation_without_labels_is_refused(digits: Any) -> None:
    model, calibration, evaluation = digits
    with pytest.raises(subbyte.SubbyteError, match="has no targets"):
        subbyte.search(model, calibration, [x for x, _ in evaluation], max_drop=1)


def test_too_few_images_are_refused(digits: Any) -> None:
    model, calibration, evaluation = digits
    with pytest.raises(subbyte.SubbyteError, match="32 are too few"):
        subbyte.search(model, calibration, evaluation[:1], max_drop=1)


def test_a_budget_above_the_metric_is_refused(digits: Any) -> None:
    model, calibration, evaluation = digits
    with pytest.raises(subbyte.SubbyteError, match="the float model has only"):
        subbyte.search(model, calibration, evaluation, max_drop=100)


@pytest.mark.slow
def test_a_score_of_another_shape_is_refused(digits: Any) -> None:
    model, calibration, evaluation = digits
    with pytest.raises(subbyte.SubbyteError, match="return a number for each"):
        subbyte.search(
            model, calibration, evaluation, max_drop=1, score=lambda outputs, targets: outputs
        )


def test_a_score_that_is_no_number_is_refused(digits: Any) -> None:
    model, calibration, evaluation = digits

    def score(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.full((len(targets),), torch.nan)

    with pytest.raises(subbyte.SubbyteError, match="score returns NaN"):
        subbyte.search(model, calibration, evaluation, max_drop=1, score=score)


def test_a_model_in_training_is_scored_in_evaluation_and_left_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    batches = [(torch.randn(30, 1, 8, 8), torch.randint(0, 3, (30,))) for _ in range(2)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes: list[bool] = []
    hook = model[1].register_forward_hook(lambda part, *_: modes.append(part.training))
    found = subbyte.search(
        model,
        batches,
        batches,
        max_drop=5,
        builds=1,
        weights=[8],
        runtimes=(),
        recipe={"method": "range"},
    )
    hook.remove()
    assert found.confirmed["simulation"]["float_metric"] == pytest.approx(
        found.confirmed["simulation"]["metric"], abs=0.1
    )
    assert modes == [False] * len(modes) != []
    assert model.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_what_is_wrong_is_named_as_the_argument_is(digits: Any) -> None:
    model, calibration, evaluation = digits
    with pytest.raises(subbyte.SubbyteError, match=r"^evaluation is empty"):
        subbyte.search(model, calibration, [], max_drop=1)
    with pytest.raises(subbyte.SubbyteError, match="unknown runtime"):
        subbyte.search(model, calibration, evaluation, max_drop=1, runtimes="openvin")


@pytest.mark.slow
def test_a_time_limit_that_passes_at_once_is_missed(digits: Any) -> None:
    model, calibration, evaluation = digits
    with pytest.raises(BudgetMissedError, match="passed before any configuration"):
        subbyte.search(
            model, calibration, evaluation, max_drop=1, time_limit=1e-9, weights=[8], runtimes=()
        )


@pytest.mark.slow
def test_bits_of_activations_are_decided_too(digits: Any) -> None:
    model, calibration, evaluation = digits
    found = subbyte.search(
        model,
        calibration,
        evaluation,
        max_drop=6,
        objective="bits",
        activations=[4, 8],
        runtimes=(),
        **{**FAST, "builds": 2},
    )
    rows = [row for row in subbyte.layers(found.quantized) if row["role"] == "activation"]
    assert {row["bits"] for row in rows} <= {4, 8}
    assert 4 in {row["bits"] for row in rows}
    dearest = max(found.frontier, key=lambda one: one["cost"])
    assert dearest["cost"] > 0


@pytest.mark.slow
def test_a_search_goes_on_with_its_own_work_alone(digits: Any, tmp_path: Path) -> None:
    model, calibration, evaluation = digits
    asked = {**FAST, "max_drop": 4, "runtimes": (), "resume": tmp_path / "kept"}
    found = subbyte.search(model, calibration, evaluation, **asked)
    again = subbyte.search(model, calibration, evaluation, **asked)
    assert again.frontier == found.frontier  # with the seconds of the first time
    assert again.recipe == found.recipe
    others = [(images.flip(0), labels) for images, labels in evaluation]
    with pytest.raises(subbyte.SubbyteError, match=r"has float scores .* and this has"):
        subbyte.search(model, calibration, others, **asked)
