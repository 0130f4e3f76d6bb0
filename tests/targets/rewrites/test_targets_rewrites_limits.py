from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import grid, kinds, model, rewritten

from subbyte.targets.onnx.rewrites.limits import merge_limits
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators

HEAD = "(float[N, 3, 2, 2] x) => (float[N, 3, 2, 2] y) "


@pytest.mark.parametrize(
    "limits",
    ["Relu(x)", "Clip(x, low, high)", "Clip(x, low)", 'Clip(x, "", high)'],
)
@pytest.mark.parametrize(("zero_point", "most"), [(0, 255), (7, 15), (128, 255)])
def test_a_grid_clips_itself(limits: str, zero_point: int, most: int) -> None:
    text = f"{HEAD} {{ a = {limits} y = {grid(0.07, zero_point, 0, most)}(a) }}"
    before = model(text, low=np.float32(-0.4), high=np.float32(1.1))
    after = rewritten(before, merge_limits)
    assert kinds(after) == {"QuantizeDequantize": 1}
    rewritten(before, merge_limits, write_own_operators)


@pytest.mark.parametrize("tops", [[0.5, 1.0, 6.0], [0.5, 0.5, 0.5], [99.0, 98.0, 97.0]])
def test_channels_have_limits_of_their_own(tops: list[float]) -> None:
    nodes = f"a = Max(x, low) b = Min(a, high) y = {grid(0.01, 0)}(b)"
    high = np.array(tops, np.float32).reshape(3, 1, 1)
    before = model(f"{HEAD} {{ {nodes} }}", low=np.float32(0), high=high)
    after = rewritten(before, merge_limits)
    (node,) = after.graph
    # Limits that are all alike, or beyond the grid, cost nothing.
    assert len(node.inputs) == (1 if len(set(np.minimum(tops, 2.55))) == 1 else 2)
    rewritten(before, merge_limits, write_own_operators)


def test_a_relu_with_another_reader_stays() -> None:
    nodes = f"a = Relu(x) b = {grid(0.1, 0)}(a) y = Add(a, b)"
    after = rewritten(model(f"{HEAD} {{ {nodes} }}"), merge_limits)
    assert kinds(after) == {"Relu": 1, "QuantizeDequantize": 1, "Add": 1}


def test_what_is_no_constant_limit_stays() -> None:
    nodes = f"h = ReduceMax <keepdims = 0> (x) a = Clip(x, low, h) y = {grid(0.1, 0)}(a)"
    after = rewritten(model(f"{HEAD} {{ {nodes} }}", low=np.float32(0)), merge_limits)
    assert kinds(after)["Clip"] == 1
