from __future__ import annotations

import numpy as np
from rewrites_helpers import evaluated, kinds, model, normal

from subbyte.targets.onnx.graph import shape_of
from subbyte.targets.onnx.rewrites.fixed_batch import fix_batch

NODES = """
    size = Shape <start = 0, end = 1> (x)
    lengths = Concat <axis = 0> (size, one, four)
    tokens = Expand(token, lengths)
    both = Concat <axis = 1> (tokens, x)
    y = Relu(both)
"""


def test_lengths_are_numbers_and_what_follows_from_them_is_gone() -> None:
    constants = {"one": np.array([1]), "four": np.array([4]), "token": normal(1, 1, 4)}
    before = model(f"(float[N, 3, 4] x) => (float[N, 4, 4] y) {{ {NODES} }}", **constants)
    after = before.clone()
    fix_batch(after)
    assert kinds(after) == {"Concat": 1, "Relu": 1}
    shapes = [shape_of(value) for node in after.graph for value in node.outputs]
    assert shapes == [[1, 4, 4], [1, 4, 4]]
    assert shape_of(after.graph.inputs[0]) == [1, 3, 4]
    x = normal(1, 3, 4, seed=1)
    np.testing.assert_array_equal(evaluated(after, x)[0], evaluated(before, x)[0])
