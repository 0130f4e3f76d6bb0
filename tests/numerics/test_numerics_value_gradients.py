from __future__ import annotations

import pytest
import torch

from subbyte.numerics.ranges import Sample
from subbyte.numerics.value_gradients import BINS, Sensitivity


def unit_bins() -> Sensitivity:
    """Bins of width 1, the first one [0, 1)."""
    return Sensitivity(0.0, float(BINS))


def sample(values: list[float], counts: list[float] | None = None) -> Sample:
    rows = torch.tensor([values])
    ends = rows.amin(1), rows.amax(1)
    return Sample(rows, None if counts is None else torch.tensor([counts]), *ends, *ends)


def test_the_mean_of_squared_gradients_in_each_bin_worked_by_hand() -> None:
    sensitivity = unit_bins()
    sensitivity.update(torch.tensor([[0.2, 0.9], [4.5, 511.5]]), torch.tensor([[1, -3], [2, 1]]))
    sensitivity.update(torch.tensor([0.5]), torch.tensor([2.0]))
    mean = sensitivity.mean()
    assert mean[0] == pytest.approx((1 + 9 + 4) / 3)
    assert mean[4] == 4
    assert mean[BINS - 1] == 1


def test_a_bin_without_values_takes_the_mean_of_the_nearest_one_with_some() -> None:
    sensitivity = unit_bins()
    sensitivity.update(torch.tensor([10.5, 20.5]), torch.tensor([1.0, 3.0]))
    mean = sensitivity.mean()
    assert mean[[0, 14, 15]].tolist() == [1, 1, 1]
    assert mean[[16, 20, 400]].tolist() == [9, 9, 9]


def test_importance_is_the_number_of_values_times_their_mean_square() -> None:
    sensitivity = unit_bins()
    sensitivity.update(torch.tensor([1.5, 3.5]), torch.tensor([1.0, 2.0]))
    weighed = sensitivity.weigh(sample([1.5, 3.5], [6.0, 2.0]))
    assert weighed.importance is not None
    first, second = weighed.importance[0].tolist()
    assert first / second == pytest.approx((6 * 1) / (2 * 4))


def test_values_beyond_those_seen_count_as_the_outermost() -> None:
    sensitivity = unit_bins()
    sensitivity.update(torch.tensor([0.5, 511.5]), torch.tensor([1.0, 2.0]))
    importance = sensitivity.weigh(sample([-7.0, 9999.0])).importance
    assert importance is not None
    assert importance[0, 1] / importance[0, 0] == 4


@pytest.mark.parametrize("gradients", [[], [0.0]])
def test_without_gradients_nothing_is_known(gradients: list[float]) -> None:
    sensitivity = unit_bins()
    sensitivity.update(torch.full((len(gradients),), 2.0), torch.tensor(gradients))
    assert sensitivity.weigh(sample([1.0])).importance is None


def test_a_tensor_of_one_value_has_one_bin() -> None:
    sensitivity = Sensitivity(3.0, 3.0)
    sensitivity.update(torch.full((4,), 3.0), torch.ones(4))
    importance = sensitivity.weigh(sample([3.0])).importance
    assert importance is not None
    assert importance.tolist() == [[1.0]]
