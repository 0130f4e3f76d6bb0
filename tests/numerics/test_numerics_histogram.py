from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subbyte.numerics.histogram import Histogram


def seen(*batches: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def bins_of(histogram: Histogram) -> dict[int, float]:
    """Bin index (0 is the bin around zero) to count, of the bins that are not empty."""
    indices = range(histogram.first, histogram.first + len(histogram.counts))
    pairs = zip(indices, histogram.counts.tolist(), strict=True)
    return {i: c for i, c in pairs if c}


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_counts_are_those_of_numpy_on_all_batches_together() -> None:
    batches = [normal(8, 3, 20, seed=s, scale=0.5 + s) for s in range(5)]
    histogram = seen(*batches)
    x = torch.cat(batches).double().numpy().ravel()
    indices = range(histogram.first, histogram.first + len(histogram.counts))
    edges = (np.append(indices, indices[-1] + 1) - 0.5) * histogram.width
    # A value may lie on the edge of a bin: those who do may be counted next door.
    place = x / histogram.width - 0.5
    undecided = (np.abs(place - np.rint(place)) < 1e-2).sum()
    expected, _ = np.histogram(x, edges)
    assert np.abs(histogram.counts.numpy() - expected).sum() <= 2 * undecided
    assert (histogram.low, histogram.high) == (x.min(), x.max())


def test_growing_batches_are_counted_as_if_seen_at_once() -> None:
    # Whole numbers and a width of 1: no value is near an edge, neither before nor after a merge.
    small = torch.arange(-1023.0, 1026.0).reshape(1, -1)
    large = torch.arange(-9000.0, 9001.0, 3.0).reshape(1, -1)
    histogram = seen(small, large)
    assert histogram.width == 3
    values = torch.cat([small, large], dim=1).long().flatten()
    expected = torch.div(values + 1, 3, rounding_mode="floor").tolist()
    assert bins_of(histogram) == {i: expected.count(i) for i in set(expected)}


@given(
    exponents=st.lists(st.floats(-20, 20), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_every_value_is_counted_once_in_bounded_memory(exponents: list[float], seed: int) -> None:
    batches = [normal(3, 7, seed=seed + i, scale=10**e) for i, e in enumerate(exponents)]
    for order in (batches, batches[::-1], list(torch.cat(batches).split(2))):
        histogram = seen(*order)
        assert histogram.counts.sum() == 21 * len(batches)
        assert len(histogram.counts) <= 8192
        assert histogram.low == torch.cat(batches).min()
        assert histogram.high == torch.cat(batches).max()


def test_a_range_that_grows_by_a_million_keeps_its_resolution() -> None:
    histogram = seen(*(normal(4, 100, seed=e, scale=10.0**e) for e in range(7)))
    assert histogram.counts.sum() == 2800
    span = histogram.high - histogram.low
    assert span / 8192 <= histogram.width <= 3.01 * span / 8192


def test_zeros_are_exact_even_after_the_bins_have_grown() -> None:
    zeros = torch.zeros(2, 500)
    histogram = seen(zeros, zeros, normal(2, 50), zeros, normal(2, 50, scale=1e4), zeros)
    sample = histogram.sample()
    assert sample.counts is not None
    at_zero = sample.counts[sample.values == 0]
    near = sum(int((normal(2, 50, scale=s).abs() < histogram.width).sum()) for s in (1, 1e4))
    assert at_zero.numel() == 1
    assert 4000 <= at_zero.item() <= 4000 + near
    assert sample.counts.sum() == 4200


def test_bins_are_centred_on_multiples_of_the_width() -> None:
    histogram = seen(torch.tensor([[-1024.0, 0.0, 0.0, 1.0, 1.4, 1.6, 1024.0]]))
    assert histogram.width == 1
    sample = histogram.sample()
    assert sample.values.tolist() == [[-1024.0, 0.0, 1.0, 2.0, 1024.0]]
    assert sample.counts is not None
    assert sample.counts.tolist() == [[1.0, 2.0, 2.0, 1.0, 1.0]]


def test_a_sample_stays_within_the_extremes() -> None:
    sample = seen(normal(4, 1000)).sample()
    assert sample.low <= sample.values.min()
    assert sample.values.max() <= sample.high


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_a_constant_tensor(value: float) -> None:
    sample = seen(torch.full((2, 10), value), torch.full((3, 10), value)).sample()
    assert sample.values.tolist() == [[value]]
    assert (sample.low.tolist(), sample.high.tolist()) == ([value], [value])


def test_the_extremes_of_the_images_are_averaged() -> None:
    histogram = seen(
        torch.tensor([[[-1.0, 3.0]], [[-2.0, 5.0]]]), torch.tensor([[[0.0, 1.0]], [[-5.0, -1.0]]])
    )
    sample = histogram.sample()
    assert sample.mean_low.tolist() == [-2.0]  # of -1, -2, 0, -5
    assert sample.mean_high.tolist() == [2.0]  # of 3, 5, 1, -1
    assert (sample.low.tolist(), sample.high.tolist()) == ([-5.0], [5.0])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(poison: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        seen(torch.ones(1, 2), torch.tensor([[1.0, poison]]))


def test_an_empty_batch_changes_nothing() -> None:
    histogram = seen(torch.tensor([[1.0, 2.0]]), torch.zeros(0, 2))
    assert histogram.counts.sum() == 2
    assert histogram.sample().mean_high.tolist() == [2.0]


def test_a_scalar_is_one_value() -> None:
    histogram = seen(torch.tensor(3.0))
    assert histogram.counts.sum() == 1
    assert histogram.sample().mean_high.tolist() == [3.0]


def test_a_bin_counts_beyond_what_float32_counts_to() -> None:
    batch = torch.zeros(257, 2**16)
    batch[0, 0] = 1.0
    assert seen(batch).counts.sum() == batch.numel()


def test_of_large_images_extremes_are_those_of_all_values_and_counts_are_in_proportion() -> None:
    batch = torch.randn(2, 3, 200, 300, generator=torch.Generator().manual_seed(0))
    batch[1, 2, 199, 299], batch[0, 1, 7, 5] = 50.0, -40.0
    histogram = seen(batch)
    assert (histogram.low, histogram.high) == (-40.0, 50.0)
    sample = histogram.sample()
    assert sample.counts is not None
    assert float(sample.counts.sum()) == pytest.approx(batch.numel(), rel=1e-3)
    for x in (-1.0, 0.5):
        share = float(sample.counts[sample.values < x].sum() / sample.counts.sum())
        assert share == pytest.approx(float((batch < x).float().mean()), abs=0.01)


def test_every_row_and_column_of_large_images_is_counted() -> None:
    rows = torch.arange(512.0)[:, None].expand(512, 512)
    for image in (rows, rows.T):
        counts = seen(image.reshape(1, 1, 512, 512)).sample().counts
        assert counts is not None
        assert float(counts.max() / counts.min()) < 1.5
