from __future__ import annotations

import pytest
import torch

from subbyte.numerics.ranges import Sample
from subbyte.numerics.value_gradients import BINS, ValueGradients


def unit_bins() -> ValueGradients:
    """Bins of width 1, the first one [0, 1)."""
    return ValueGradients(0.0, float(BINS))


def sample(values: list[float], counts: list[float] | None = None) -> Sample:
    rows = torch.tensor([values])
    ends = rows.amin(1), rows.amax(1)
    return Sample(rows, None if counts is None else torch.tensor([counts]), *ends, *ends)


def test_the_mean_of_squared_gradients_in_each_bin_worked_by_hand() -> None:
    gradients_seen = unit_bins()
    gradients_seen.update(torch.tensor([[0.2, 0.9], [4.5, 511.5]]), torch.tensor([[1, -3], [2, 1]]))
    gradients_seen.update(torch.tensor([0.5]), torch.tensor([2.0]))
    mean = gradients_seen.mean()
    assert mean[0] == pytest.approx((1 + 9 + 4) / 3)
    assert mean[4] == 4
    assert mean[BINS - 1] == 1


def test_a_bin_without_values_takes_the_mean_of_the_nearest_one_with_some() -> None:
    gradients_seen = unit_bins()
    gradients_seen.update(torch.tensor([10.5, 20.5]), torch.tensor([1.0, 3.0]))
    mean = gradients_seen.mean()
    assert mean[[0, 14, 15]].tolist() == [1, 1, 1]
    assert mean[[16, 20, 400]].tolist() == [9, 9, 9]


def test_the_weight_is_the_number_of_values_times_their_mean_square() -> None:
    gradients_seen = unit_bins()
    gradients_seen.update(torch.tensor([1.5, 3.5]), torch.tensor([1.0, 2.0]))
    weighed = gradients_seen.weigh(sample([1.5, 3.5], [6.0, 2.0]))
    assert weighed.mse_weights is not None
    first, second = weighed.mse_weights[0].tolist()
    assert first / second == pytest.approx((6 * 1) / (2 * 4))


def test_values_beyond_those_seen_count_as_the_outermost() -> None:
    gradients_seen = unit_bins()
    gradients_seen.update(torch.tensor([0.5, 511.5]), torch.tensor([1.0, 2.0]))
    weights = gradients_seen.weigh(sample([-7.0, 9999.0])).mse_weights
    assert weights is not None
    assert weights[0, 1] / weights[0, 0] == 4


@pytest.mark.parametrize("gradients", [[], [0.0]])
def test_without_gradients_nothing_is_known(gradients: list[float]) -> None:
    gradients_seen = unit_bins()
    gradients_seen.update(torch.full((len(gradients),), 2.0), torch.tensor(gradients))
    assert gradients_seen.weigh(sample([1.0])).mse_weights is None


def test_a_tensor_of_one_value_has_one_bin() -> None:
    gradients_seen = ValueGradients(3.0, 3.0)
    gradients_seen.update(torch.full((4,), 3.0), torch.ones(4))
    weights = gradients_seen.weigh(sample([3.0])).mse_weights
    assert weights is not None
    assert weights.tolist() == [[1.0]]
