"""Which images judge: whole portions that no layer is fitted to."""

from __future__ import annotations

from subbyte.methods.gptq.layerwise import held_out


def test_every_fifth_portion_is_held_out() -> None:
    assert held_out(4).tolist() == []
    assert held_out(5).tolist() == [4]
    assert held_out(100).tolist() == list(range(80, 100))  # five portions of 20
    assert held_out(360).tolist() == [*range(128, 160), *range(288, 320)]  # of 32, the last of 8
