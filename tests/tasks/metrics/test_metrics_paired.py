from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from subbyte.tasks.metrics.comparison import share_change
from subbyte.tasks.metrics.paired import paired_draws, paired_scores, paired_shares


def test_shares_have_the_interval_of_bonett_and_price() -> None:
    # Of 1,600 people 944 approve first and 880 second, 794 both times (Agresti, Categorical Data
    # Analysis, table 10.1): 150 are lost and 86 gained; 0.04 with the error 0.0095 by Wald.
    before = np.zeros(1600, bool)
    after = np.zeros(1600, bool)
    before[:944] = True
    after[:794] = True
    after[944 : 944 + 86] = True
    found = paired_shares(before, after)
    assert found.lost == pytest.approx(64 / 1600)
    assert found.error == pytest.approx(0.0095, abs=2e-4)
    low, high = found.interval()
    assert low == pytest.approx(0.021, abs=1e-3)
    assert high == pytest.approx(0.059, abs=1e-3)
    # The same as two runs that are compared: of a few images, where the formulas differ most.
    few = slice(785, 800)
    change, found = share_change(before[few], after[few]), paired_shares(before[few], after[few])
    assert found.interval() == pytest.approx((-change.high, -change.low))


def test_without_any_change_shares_are_not_certain() -> None:
    same = np.ones(50, bool)
    assert paired_shares(same, same).error == pytest.approx(math.sqrt(2) / 52)


def test_scores_have_the_error_of_a_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(size=200)
    after = before - 0.1 + 0.3 * generator.normal(size=200)
    found = paired_scores(before, after)
    statistic = stats.ttest_rel(before, after).statistic
    assert found.lost / found.error == pytest.approx(statistic)


def test_the_upper_end_is_one_sided() -> None:
    found = paired_draws(0.8, 0.79, np.array([0.0, 0.02]), 100)
    assert found.error == pytest.approx(math.sqrt(2) / 100)
    assert found.upper(0.95) == pytest.approx(0.01 + 1.6449 * found.error, rel=1e-4)


def test_what_is_lost_already_no_number_of_images_decides() -> None:
    found = paired_draws(0.8, 0.79, np.array([0.0, 0.02]), 100)
    assert found.images_to_decide(0.01, 0.95) is None
