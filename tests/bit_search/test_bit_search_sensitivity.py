"""What a layer loses at each width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subbyte.bit_search.sensitivity import of_width


@given(st.floats(0, 1), st.floats(1e-6, 1), st.sets(st.integers(2, 8), min_size=2, max_size=6))
def test_what_a_layer_loses_at_any_width_is_taken_off(
    common: float, rounding: float, widths: set[int]
) -> None:
    exact = {bits: rounding / 4.0**bits for bits in widths}
    found = of_width({bits: common + error for bits, error in exact.items()})
    assert found == pytest.approx(exact, abs=1e-9 + 1e-12 * common)


def test_a_layer_that_is_bad_at_8_bits_because_of_rounding_stays_so() -> None:
    """Its loss falls by 16 from 6 to 8 bits, as that of rounding does."""
    assert of_width({4: 2.0, 6: 1.6, 8: 0.1}) == pytest.approx({4: 2.0, 6: 1.6, 8: 0.1})


def test_noise_makes_no_loss_negative() -> None:
    assert of_width({4: 0.02, 6: 0.011, 8: 0.012}) == pytest.approx({4: 0.008, 6: 0.0, 8: 0.0})


def test_of_a_pinned_width_nothing_is_known() -> None:
    assert of_width({4: 0.5}) == {4: 0.5}
