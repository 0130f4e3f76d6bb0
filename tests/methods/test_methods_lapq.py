"""`lapq`: a lower loss than its start, within its bounds, repeatable, labels as it was told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest
import torch
from methods_helpers import model
from torch import nn

from subbyte import Recipe, SubbyteError, quantize
from subbyte.graph.output_loss import loss_of_outputs
from subbyte.methods.lapq import EXPONENTS, lowest
from subbyte.utils.progress import Silent

pytestmark = pytest.mark.slow

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [IMAGES[:40], IMAGES[40:]]
T = TypeVar("T")


def recipe(**options: object) -> Recipe:
    method = {"name": "lapq", "max_evaluations": 60, **options}
    return Recipe(weights=3, activations=3, first_last=None, per_channel=False, method=method)


def loss(quantized: nn.Module) -> float:
    with torch.no_grad():
        return float(loss_of_outputs().mean(quantized(IMAGES), model()(IMAGES), ()))


@pytest.mark.parametrize("start", ["lp", "laplace", {"name": "lp", "p": 2}])
@pytest.mark.parametrize("search", ["scale", "clip"])
def test_the_search_lowers_the_loss_of_its_start(start: object, search: str) -> None:
    found = quantize(model(), BATCHES, recipe(start=start, search=search))
    at_first = quantize(model(), BATCHES, recipe(start=start, search=search, max_evaluations=0))
    assert loss(found) < 0.9 * loss(at_first)
    again = quantize(model(), BATCHES, recipe(start=start, search=search))
    assert torch.equal(found(IMAGES), again(IMAGES))


def test_a_start_by_a_rule_has_the_ranges_of_that_rule() -> None:
    found = quantize(model(), BATCHES, recipe(start="minmax", max_evaluations=0))
    for tensor, quantizer in found.weights():
        low, high = found.weight(tensor).aminmax()
        assert float(quantizer.scale) == pytest.approx(float(high - low) / 7)
    first = next(quantizer for _, quantizer in found.activations())
    assert float(first.scale) == pytest.approx(float(IMAGES.max() - IMAGES.min()) / 7)


class Counting(Silent):
    """Counts the steps of the search."""

    def __init__(self) -> None:
        self.steps = 0

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            self.steps += description == "searching step sizes"
            yield item


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_evaluations": 7}, 7), ({"seconds": 1e-9}, 1)],  # time is looked at after each
)
def test_evaluations_and_seconds_bound_it(options: dict[str, float], steps: int) -> None:
    progress = Counting()
    quantize(model(), BATCHES, recipe(**options), progress=progress)
    assert progress.steps == steps


def test_labels_are_looked_at_where_there_are_some() -> None:
    with torch.no_grad():
        labels = model()(IMAGES).argmax(1)
    right = quantize(model(), [(IMAGES, labels)], recipe())
    wrong = quantize(model(), [(IMAGES, (labels + 1) % 4)], recipe())
    unlabelled = quantize(model(), [(IMAGES, labels)], recipe(targets="outputs"))
    assert not torch.equal(right(IMAGES), wrong(IMAGES))
    assert torch.equal(unlabelled(IMAGES), quantize(model(), [IMAGES], recipe())(IMAGES))


def test_labels_that_cannot_be_are_refused() -> None:
    with pytest.raises(SubbyteError, match="targets is 'labels'"):
        quantize(model(), BATCHES, recipe(targets="labels"))
    with pytest.raises(SubbyteError, match="the model has 4 classes"):
        quantize(model(), [(IMAGES, torch.full((64,), 7))], recipe())


def test_one_image_and_less_than_a_batch() -> None:
    for images in (1, 5):
        found = quantize(model(), [IMAGES[:images]], recipe(max_evaluations=5))
        assert bool(torch.isfinite(found(IMAGES)).all())


def test_options_are_checked() -> None:
    for option, value in (
        ("range rule", "best"),
        ("search", "zero"),
        ("max_evaluations", -1),
        ("seconds", 0),
        ("evaluations", 3),
    ):
        with pytest.raises(SubbyteError, match=option):
            quantize(model(), BATCHES, recipe(**{option.replace("range rule", "start"): value}))


def test_the_exponent_is_where_a_parabola_islowest() -> None:
    assert lowest({p: (p - 2.7) ** 2 + 1 for p in EXPONENTS}) == pytest.approx(2.7)
    assert lowest({p: (p - 9.0) ** 2 for p in EXPONENTS}) == 4.0
    assert lowest({p: -((p - 3.0) ** 2) - 0.1 * p for p in EXPONENTS}) == 4.0
    assert lowest({2.0: 3.0, 2.5: float("inf"), 3.0: 1.0}) == 3.0
