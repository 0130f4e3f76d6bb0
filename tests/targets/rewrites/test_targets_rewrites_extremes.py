from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, rewritten

from subbyte.targets.onnx.rewrites.extremes import keep_extremes

CONSTANTS = {"s": np.float32(0.5), "z": np.uint8(3)}
HEAD = "(float[N, 3, 5, 5] x) => (float[N, {}] y) "
BEHIND = "q = QuantizeLinear(b, s, z) y = DequantizeLinear(q, s, z)"


def found(kind: str, axes: list[int], kept: int, between: str, shape: str) -> dict[str, int]:
    """The operators of a graph with a quantized extreme; the rewrite changes no value."""
    text = f"{HEAD.format(shape)} {{ a = {kind} <keepdims = {kept}> (x, axes) {between} }}"
    return kinds(rewritten(model(text, axes=np.array(axes), **CONSTANTS), keep_extremes))


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
def test_dimensions_are_removed_or_kept_by_an_operator_behind(kind: str) -> None:
    behind = BEHIND.replace("(b,", "(a,")
    assert found(kind, [1], 1, behind, "1, 5, 5")["Unsqueeze"] == 1
    assert found(kind, [-1, 2], 0, behind, "3")["Squeeze"] == 1


def test_so_it_is_behind_functions_of_single_values() -> None:
    assert found("ReduceMax", [2, 3], 0, f"b = Sigmoid(a) {BEHIND}", "3")["Squeeze"] == 1


def test_what_is_not_quantized_stays() -> None:
    assert not found("ReduceMax", [2, 3], 0, "y = Sigmoid(a)", "3")["Squeeze"]
    assert not found("ReduceMean", [2, 3], 0, BEHIND.replace("(b,", "(a,"), "3")["Squeeze"]
