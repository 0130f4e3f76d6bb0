from __future__ import annotations

import pytest

from subbyte.bit_search import budget
from subbyte.bit_search.settings import Search
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics.paired import Paired


def test_the_parts_of_a_split_are_disjoint_and_all_there_is() -> None:
    found = budget.split(101, seed=3)
    assert len(found.searching) == 50
    assert sorted((*found.searching, *found.confirming)) == list(range(101))
    assert found == budget.split(101, seed=3)
    assert found != budget.split(101, seed=4)


def test_no_more_than_five_thousand_images_search() -> None:
    found = budget.split(30_000, seed=0)
    assert (len(found.searching), len(found.confirming)) == (5000, 25_000)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(SubbyteError, match="39 are too few: give at least 40"):
        budget.split(39, seed=0)


def test_what_is_lost_itself_decides_without_a_confidence() -> None:
    paired = Paired(0.81, 0.8069, 0.002, 5000)
    found = budget.verdict(paired, Search(max_drop=0.5), 0.005)
    assert found["met"]
    assert found["sentence"] == "0.31 points lost (−0.1 to 0.7, 5,000 images), asked for 0.5"


def test_just_as_much_lost_as_may_be_is_within_the_budget() -> None:
    paired = Paired(0.828, 0.818, 0.002, 500)
    assert paired.lost > 0.01  # by the last digit
    assert budget.verdict(paired, Search(max_drop=1), 0.01)["met"]


def test_a_budget_that_is_missed_says_by_how_much() -> None:
    paired = Paired(0.81, 0.80, 0.002, 5000)
    found = budget.verdict(paired, Search(max_drop=0.5), 0.005)
    assert not found["met"]
    assert found["sentence"].endswith("asked for 0.5: missed by 0.5")


def test_a_confidence_that_images_cannot_decide_says_how_many_would() -> None:
    paired = Paired(0.81, 0.808, 0.004, 1000)  # 0.2 lost, ± 0.66 one-sided at 95 %
    found = budget.verdict(paired, Search(max_drop=0.5, confidence=0.95), 0.005)
    assert not found["met"]
    # 1,000 · (1.6449 · 0.004 / 0.003)² = 4,810
    assert found["images_to_decide"] == pytest.approx(4810, rel=1e-3)
    assert "1,000 images are too few: about 4,81" in found["sentence"]
    enough = Paired(0.81, 0.808, 0.004 * (1000 / 4900) ** 0.5, 4900)
    assert budget.verdict(enough, Search(max_drop=0.5, confidence=0.95), 0.005)["met"]


@pytest.mark.parametrize("error", [float("inf"), float("nan")])
def test_an_error_that_is_not_known_decides_nothing(error: float) -> None:
    paired = Paired(0.5, 0.499, error, 40)
    found = budget.verdict(paired, Search(max_drop=0.5, confidence=0.9), 0.005)
    assert not found["met"]
    assert found["images_to_decide"] is None


def test_a_metric_is_checked_before_the_search_alone() -> None:
    search = Search(max_drop=5)
    # The half that confirms may be a harder one, and what is lost of it is still measured.
    assert search.budget(0.04) == pytest.approx(0.05)
    with pytest.raises(SubbyteError, match="has only 4"):
        search.check_metric(0.04)
    with pytest.raises(SubbyteError, match="the float model has no metric"):
        search.check_metric(float("nan"))
