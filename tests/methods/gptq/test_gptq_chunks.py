"""Which images judge: whole chunks that no layer is fitted to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from subbyte.methods.gptq.chunks import chunks, held_out_images


def test_every_fifth_chunk_is_held_out() -> None:
    assert held_out_images(4).tolist() == []
    assert held_out_images(5).tolist() == [4]
    assert held_out_images(100).tolist() == list(range(80, 100))  # five chunks of 20
    assert held_out_images(360).tolist() == [*range(128, 160), *range(288, 320)]  # of 32


@given(st.integers(1, 2000))
def test_chunks_are_all_images_one_after_the_other(count: int) -> None:
    found = [image for chunk in chunks(count) for image in range(count)[chunk]]
    assert found == list(range(count))
    share = len(held_out_images(count)) / count
    assert share <= 0.25
    assert (share > 0) == (count >= 5)
