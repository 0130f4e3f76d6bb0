from __future__ import annotations

import pytest
from rewrites_helpers import grid, kinds, model, rewritten

from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.repeat_grids import repeat_grids

START = f"a = {grid(0.1, 9, 0, 15)}(x) ints = Constant <value_ints = [-1, 16]> () "
PADS = "pads = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> () "


@pytest.mark.parametrize(
    ("nodes", "repeated"),
    [
        ("y = MaxPool <kernel_shape = [2, 2]> (a)", 1),
        ("b = Transpose <perm = [0, 2, 3, 1]> (a) y = Reshape(b, ints)", 2),
        ("y, z = Split <axis = 1, num_outputs = 2> (a)", 2),
        (f"b = {grid(0.1, 9)}(x) y = Concat <axis = 1> (a, b)", 1),
        (PADS + "y = Pad(a, pads)", 1),
        # Another grid, no grid, or new values: what comes out is not on the one of what goes in.
        (f"b = {grid(0.2, 9)}(x) y = Concat <axis = 1> (a, b)", 0),
        ("y = Concat <axis = 1> (a, x)", 0),
        ("y = Sigmoid(a)", 0),
        (PADS + "one = Constant <value_float = 1.0> () y = Pad(a, pads, one)", 0),
        ("y = AveragePool <kernel_shape = [2, 2]> (a)", 0),
    ],
)
def test_a_grid_is_repeated_behind_moves(nodes: str, repeated: int) -> None:
    outputs = "float y, float z" if "z =" in nodes else "float y"
    before = model(f"(float[N, 4, 2, 2] x) => ({outputs}) {{ {START} {nodes} }}")
    after = rewritten(before, repeat_grids)
    found = kinds(after)["QuantizeDequantize"] - kinds(before)["QuantizeDequantize"]
    assert found == repeated
    names = [output.name for output in before.graph.outputs]
    assert [output.name for output in after.graph.outputs] == names
    rewritten(before, repeat_grids, write_own_operators)
