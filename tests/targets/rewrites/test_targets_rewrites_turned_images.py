from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, rewritten

from subbyte.targets.onnx.rewrites.turned_images import keep_turned_images

HEAD = "(float[N, 4, 4, 4] x) => (float[N, {0}, {1}, {2}] y) "
WEIGHT = "v = DequantizeLinear <axis = 0> (w, s) "


def pools(body: str, sides: tuple[int, int, int] = (4, 4, 4), kernel: int = 1) -> int:
    """How many poolings the rewrite puts in; it changes no value."""
    rng = np.random.default_rng(0)
    integers = rng.integers(-9, 9, (4, 4, kernel, kernel)).astype(np.int8)
    scales = np.full(4, 0.1, np.float32)
    quantized = {"scale": np.float32(0.03), "zero": np.uint8(128)}
    text = f"{HEAD.format(*sides)} {{ {WEIGHT} {body} }}"
    before = model(text, w=integers, s=scales, **quantized)
    return kinds(rewritten(before, keep_turned_images))["MaxPool"]


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose <perm = [0, 2, 1, 3]> (x) y = Conv(t, v)",
        "t = Transpose <perm = [0, 2, 1, 3]> (x) i = Identity(t) y = Conv(i, v)",
        "t = Conv(x, v) i = Identity(t) y = Transpose <perm = [0, 1, 3, 2]> (i)",
        "t = Conv(x, v) y = Transpose <perm = [0, 1, 3, 2]> (t)",
    ],
)
def test_another_transposition_is_kept_from_the_convolution(body: str) -> None:
    assert pools(body) == 1


@pytest.mark.parametrize(
    ("body", "sides", "kernel"),
    [
        ("t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv(t, v)", (4, 4, 4), 1),
        ("t = Conv(x, v) y = Transpose <perm = [0, 2, 3, 1]> (t)", (4, 4, 4), 1),
        ("t = Transpose <perm = [0, 2, 1, 3]> (x) y = Conv(t, v)", (4, 2, 2), 3),
        (
            "q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero) "
            "t = Transpose <perm = [0, 2, 1, 3]> (d) y = Conv(t, v)",
            (4, 4, 4),
            1,
        ),
    ],
    ids=["to channels first", "to channels last", "3 x 3", "integers"],
)
def test_others_stay(body: str, sides: tuple[int, int, int], kernel: int) -> None:
    assert pools(body, sides, kernel) == 0
