"""Which way the range of a tensor that no layer reads should go: by what was measured of it."""

from __future__ import annotations

import pytest

from subbyte.diagnosis import advice
from subbyte.diagnosis.result import LayerErrors, QuantizedActivation


def product(clipped: float | None, bits: int = 8) -> LayerErrors:
    """As of a SiLU's product with a sigmoid, which a sum reads."""
    tensor = QuantizedActivation(
        tensor="mul", bits=bits, symmetric=False, scale=0.1, zero_point=0, grid_low=-1.0,
        grid_high=24.5, steps=256, sqnr_db=12.0, clipped=clipped, clipped_calibration=clipped,
        low=-0.3, high=30.0, histogram=None, readers=(),
    )  # fmt: skip
    return LayerErrors("mul", "operation", "", "", None, (tensor,), alone_share=1.0)


@pytest.mark.parametrize(
    ("clipped", "says", "not_said"),
    [(0.12, "wider ranges", "narrower"), (0.0, "narrower ranges", "wider")],
)
def test_one_direction_is_named(clipped: float, says: str, not_said: str) -> None:
    _, (said,) = advice.of([product(clipped)], 0.1, {})
    assert says in said.helps
    assert not_said not in said.helps
    assert f"{clipped:.1%} of its values are clipped" in said.sentence


def test_few_bits_come_first() -> None:
    _, (said,) = advice.of([product(0.12, bits=4)], 0.1, {})
    assert said.helps == "give it more bits"
