from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rewrites_helpers import grid, kinds, model, normal, rewritten

from subbyte.targets.onnx.grids import Style, grid_nodes, set_grid, settings
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators

HEAD = "(float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) "


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 15), (3, 9)])
def test_each_style_computes_the_same(style: Style, low: int, high: int) -> None:
    before = model(f"{HEAD} {{ y = {grid(0.13, 5, low, high)}(x) }}")
    (node,) = grid_nodes(before)
    set_grid(node, replace(settings(node), style=style))
    after = rewritten(before, write_own_operators)
    assert set(after.opset_imports) == {""}
    assert kinds(after)["QuantizeLinear"] == kinds(after)["DequantizeLinear"] == 1
    assert kinds(after)["Clip"] == ((low, high) != (0, 255))
    assert [output.name for output in after.graph.outputs] == ["y"]


def test_the_highest_integers_of_channels_are_a_min_of_integers() -> None:
    tops = np.array([4, 7, 9], np.uint8).reshape(1, 3, 1, 1)
    before = model(f"{HEAD} {{ y = {grid(0.2, 3)}(x, tops) }}", tops=tops)
    after = rewritten(before, write_own_operators)
    (node,) = [node for node in after.graph if node.op_type == "Min"]
    assert node.inputs[0].producer().op_type == "QuantizeLinear"


@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_linear_layer_is_a_product_and_a_sum(bias: str) -> None:
    text = f"(float[N, 3] x) => (float[N, 4] y) {{ y = subbyte.Linear(x, w{bias}) }}"
    after = rewritten(model(text, w=normal(3, 4), b=normal(4)), write_own_operators)
    assert kinds(after) == ({"MatMul": 1, "Sum": 1} if bias else {"MatMul": 1})
