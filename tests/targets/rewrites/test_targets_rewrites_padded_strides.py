from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, normal, rewritten

from subbyte.targets.onnx.rewrites.padded_strides import keep_strides

HEAD = "(float[N, 3, 6, 6] x) => (float[N, 2, {0}, {0}] y) "
PADS, STRIDES = "pads = [1, 1, 1, 1]", "strides = [2, 2]"


def pools(body: str, side: int, kernel: int = 1, **constants: object) -> int:
    """How many poolings the rewrite puts in; it changes no value."""
    weight = normal(2, 3, kernel, kernel)
    before = model(f"{HEAD.format(side)} {{ {body} }}", w=weight, **constants)
    return kinds(rewritten(before, keep_strides))["MaxPool"]


def test_a_padded_convolution_with_strides_has_a_pooling_in_front() -> None:
    assert pools(f"y = Conv <{STRIDES}, {PADS}> (x, w)", 4) == 1
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    assert pools(f"p = Pad(x, pads) y = Conv <{STRIDES}> (p, w)", 4, pads=pads) == 1


@pytest.mark.parametrize(
    ("attributes", "side", "kernel"), [(STRIDES, 3, 1), (PADS, 8, 1), (f"{STRIDES}, {PADS}", 3, 3)]
)
def test_other_convolutions_stay(attributes: str, side: int, kernel: int) -> None:
    assert pools(f"y = Conv <{attributes}> (x, w)", side, kernel) == 0
