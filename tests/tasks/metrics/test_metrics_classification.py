from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binomtest

from subbyte.tasks.metrics.classification import (
    Logits,
    agreement,
    interval,
    largest_difference,
    metrics,
    sqnr_db,
)


def outputs(logits: object, labels: object = ()) -> Logits:
    values = np.array(logits, np.float32)
    return Logits(values, np.array(labels or [0] * len(values), np.int64))


def test_metrics_by_hand() -> None:
    row = [9.0, 8, 7, 6, 5, 4, 3]
    four = outputs([row] * 4, [0, 4, 5, 6])  # ranks 0, 4, 5 and 6
    assert metrics(four) == {"top1": 0.25, "top5": 0.5}
    assert four.images == 4


def test_top5_needs_more_classes() -> None:
    assert metrics(outputs([[0.0, 1, 2]], [2])) == {"top1": 1.0}


def test_a_tie_goes_to_the_class_that_argmax_gives() -> None:
    tied = [[1.0, 2, 2, 0, 2, 2, 2, 2]] * 8
    # Highest first, and the lower index first: 1, 2, 4, 5, 6, 7, 0, 3.
    found = metrics(outputs(tied, [0, 1, 2, 3, 4, 5, 6, 7]))
    assert found == {"top1": 1 / 8, "top5": 5 / 8}


@given(
    arrays.arrays(np.float32, (6, 7), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    st.lists(st.integers(0, 6), min_size=6, max_size=6),
)
def test_metrics_are_those_of_a_stable_sort(logits: np.ndarray, labels: list[int]) -> None:
    order = [sorted(range(7), key=lambda c: -row[c]) for row in logits.tolist()]
    found = metrics(Logits(logits, np.array(labels)))
    for key, k in (("top1", 1), ("top5", 5)):
        right = sum(label in ranks[:k] for label, ranks in zip(labels, order, strict=True))
        assert found[key] == pytest.approx(right / 6)


def test_an_output_that_is_not_a_number_is_wrong() -> None:
    broken = outputs([[math.nan] * 10] * 3, [0, 4, 9])
    assert metrics(broken) == {"top1": 0.0, "top5": 0.0}


@pytest.mark.parametrize(("hits", "images"), [(0, 5), (5, 5), (1, 3), (899, 1000), (37, 50)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_interval_is_wilsons(hits: int, images: int, confidence: float) -> None:
    known = binomtest(hits, images).proportion_ci(confidence, method="wilson")
    found = interval(hits / images, images, confidence)
    assert found == pytest.approx((known.low, known.high), abs=1e-12)


def test_interval_by_hand() -> None:
    # z² = 3.841459: the centre is (0.5 + z²/20) / (1 + z²/10) = 0.5,
    # the half-width √(0.25 z²/10 + z⁴/400) / (1 + z²/10) = 0.364594 / 1.384146 = 0.263407.
    assert interval(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=2e-6)
    assert interval(0.0, 0) == (0.0, 1.0)


@given(st.integers(1, 500), st.floats(0, 1))
def test_interval_holds_the_share_and_stays_in_range(images: int, part: float) -> None:
    share = round(part * images) / images
    low, high = interval(share, images)
    assert 0 <= low <= share <= high <= 1
    wider = interval(share, images, 0.999)
    assert wider[0] <= low + 1e-12
    assert high <= wider[1] + 1e-12


def test_agreement_counts_the_same_top1_whatever_the_labels() -> None:
    one = outputs([[1.0, 2], [2.0, 1], [0.0, 5]], [0, 0, 0])
    other = outputs([[3.0, 9], [0.0, 1], [1.0, 2]], [1, 1, 1])
    assert agreement(one, other) == pytest.approx(2 / 3)


def test_largest_difference_is_absolute() -> None:
    assert largest_difference(outputs([[1.0, -4.0]]), outputs([[2.0, -6.5]])) == 2.5


def test_sqnr_by_hand() -> None:
    reference = outputs([[3.0, -4.0], [0.0, 5.0]])
    assert sqnr_db(reference, outputs([[3.5, -4.0], [0.0, 5.0]])) == pytest.approx(
        10 * math.log10(50 / 0.25)
    )
    assert sqnr_db(reference, reference) is None


def test_sqnr_sums_in_double_precision() -> None:
    large = outputs([[3e20, -3e20]])  # its squares are beyond float32
    assert sqnr_db(large, outputs([[3e20, -2.7e20]])) == pytest.approx(10 * math.log10(200), 1e-5)


def test_sqnr_of_an_output_that_is_not_a_number_is_not_that_of_no_error() -> None:
    assert sqnr_db(outputs([[1.0, 2.0]]), outputs([[math.nan, 2.0]])) is not None
