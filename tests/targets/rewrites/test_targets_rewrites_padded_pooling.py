from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, rewritten

from subbyte.targets.onnx.rewrites.padded_pooling import pad_integers

HEAD = "(float[N, 3, 6, 6] x) => (float[N, 3, {0}, {0}] y) "
QDQ = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
POOL = "AveragePool <kernel_shape = [3, 3], strides = [2, 2]{}> "
PADS, COUNTED = ", pads = [1, 1, 1, 1]", ", count_include_pad = 1"
PADDING = np.array([0, 0, 1, 0, 0, 0, 1, 2])


def found(body: str, side: int = 3, zero: int = 7, **constants: object) -> dict[str, int]:
    """The operators of a rewritten graph, whose values are as before."""
    given = {"s": np.float32(0.1), "z": np.uint8(zero), **constants}
    before = model(f"{HEAD.format(side)} {{ {QDQ} {body} }}", **given)
    return kinds(rewritten(before, pad_integers))


def test_padding_that_counts_is_one_of_integers() -> None:
    counts = found(f"y = {POOL.format(PADS + COUNTED)} (d)")
    assert (counts["Pad"], counts["DequantizeLinear"], counts["Clip"]) == (1, 1, 0)


def test_a_pad_in_front_is_one_of_integers() -> None:
    counts = found(f"p = Pad(d, pads) y = {POOL.format('')} (p)", pads=PADDING)
    assert (counts["Pad"], counts["DequantizeLinear"], counts["Clip"]) == (1, 1, 0)


def test_behind_other_moves_a_clip_keeps_both_apart() -> None:
    counts = found(f"m = MaxPool <kernel_shape = [1, 1]> (d) y = {POOL.format(PADS + COUNTED)} (m)")
    assert (counts["Pad"], counts["Clip"]) == (1, 1)


@pytest.mark.parametrize(("attributes", "zero"), [(PADS + COUNTED, 0), (PADS, 7), (COUNTED, 7)])
def test_other_poolings_stay(attributes: str, zero: int) -> None:
    side = 3 if PADS in attributes else 2
    assert not found(f"y = {POOL.format(attributes)} (d)", side, zero)["Pad"]
