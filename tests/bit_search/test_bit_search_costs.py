from __future__ import annotations

import pytest

from subbyte.bit_search.costs import table_bytes, weight_forms


def test_a_weight_may_be_held_as_a_type_or_by_a_table() -> None:
    forms = weight_forms(36_864, 64, 3)
    assert forms[None] == pytest.approx(36_864 / 2, abs=600)  # int4, and scales
    assert forms[3] == pytest.approx(36_864 * 3 / 8, abs=600)
    assert set(forms) == {None, 3}  # 5, 6 and 7 bits take more than int4


def test_five_bits_need_a_table_or_are_held_in_eight() -> None:
    forms = weight_forms(36_864, 64, 5)
    assert set(forms) == {None, 5, 6, 7}
    assert forms[None] == pytest.approx(36_864, abs=400)
    assert forms[5] < forms[6] < forms[7] < forms[None]


def test_few_numbers_are_held_as_they_are() -> None:
    assert set(weight_forms(100, 4, 2)) == {None}
    assert weight_forms(100, 4, None) == {None: 400.0}


@pytest.mark.parametrize(("width", "content"), [(2, 1024), (5, 2048), (6, 1024)])
def test_a_table_has_a_row_for_each_byte(width: int, content: int) -> None:
    assert content < table_bytes(width) < content + 800
