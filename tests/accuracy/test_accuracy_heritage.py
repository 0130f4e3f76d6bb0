"""What docs/explained/heritage.md says of odd figures, on the bundled SSD."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from subbyte.models.digits import CLASSES
from subbyte.tasks.metrics import coco

FOLDER = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.slow


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import accumulators
    import heritage

    yield accumulators, heritage
    for name in ("accumulators", "heritage", "cifar10"):
        sys.modules.pop(name, None)


def test_an_accumulator_of_16_bits_pushes_all_scores_under_the_threshold(
    scripts: tuple[ModuleType, ModuleType],
) -> None:
    ours, _ = scripts
    plain = ours.quantized(ours.widened())
    images = ours.pictures("evaluation", 4)

    wide, narrow = (
        ours.scores(ours.with_sums(plain, accumulator=bits), images) for bits in (32, 16)
    )

    assert wide.score > 0.99
    assert wide.found > 10
    assert narrow.score < 0.05
    assert narrow.found == 0
    # It is the logits that are cut off: the softmax of those of 32 bits is as it should be.
    assert narrow.highest < wide.highest / 20


def test_the_widened_ssd_computes_the_same(scripts: tuple[ModuleType, ModuleType]) -> None:
    ours, _ = scripts
    images = ours.pictures("evaluation", 2)
    for one, other in zip(ours.bundled()(images), ours.widened()(images), strict=True):
        assert one["labels"].tolist() == other["labels"].tolist()
        assert one["scores"].detach().numpy() == pytest.approx(
            other["scores"].detach().numpy(), abs=0.03
        )


def test_half_of_the_images_against_the_truth_of_all(
    scripts: tuple[ModuleType, ModuleType],
) -> None:
    _, ours = scripts
    outputs, truth = ours.detected(20)

    whole = coco.metrics(outputs, truth, CLASSES).metrics["AP"]
    half = coco.metrics(ours.without(outputs, 0.5), truth, CLASSES).metrics["AP"]
    own = coco.metrics(outputs.take(range(10)), truth, CLASSES).metrics["AP"]

    assert half == pytest.approx(whole / 2, rel=0.2)
    assert own == pytest.approx(whole, rel=0.1)
