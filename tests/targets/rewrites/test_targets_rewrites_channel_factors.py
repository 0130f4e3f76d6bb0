from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, normal, rewritten

from subbyte.targets.onnx.rewrites.channel_factors import fold_channel_factors

QDQ = {"s": np.float32(0.03), "z": np.uint8(128)}
POWERS = np.array([1, 0.25, 2**-7, 0.5], np.float32).reshape(1, 4, 1, 1)
HEAD = "(float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y) "
BEHIND = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = Mul(d, f) y = Sigmoid(m)"
BEFORE = "a = Sigmoid(x) m = Mul(a, f) q = QuantizeLinear(m, s, z) y = DequantizeLinear(q, s, z)"


@pytest.mark.parametrize("body", [BEHIND, BEFORE])
def test_a_product_by_channel_becomes_part_of_the_scales(body: str) -> None:
    before = model(f"{HEAD} {{ {body} }}", f=POWERS, **QDQ)
    assert kinds(rewritten(before, fold_channel_factors, tolerance=0))["Mul"] == 0


def test_one_that_others_read_keeps_its_scale() -> None:
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = Mul(d, f) y = Add(m, d)"
    after = rewritten(model(f"{HEAD} {{ {body} }}", f=POWERS, **QDQ), fold_channel_factors)
    assert kinds(after) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Add": 1}


@pytest.mark.parametrize(
    "factors",
    [np.float32(0.5), normal(1, 4, 1, 1), np.full((1, 4, 5, 5), 0.5, np.float32)],
)
def test_other_products_stay(factors: np.ndarray) -> None:
    after = rewritten(model(f"{HEAD} {{ {BEHIND} }}", f=factors, **QDQ), fold_channel_factors)
    assert kinds(after)["Mul"] == 1
