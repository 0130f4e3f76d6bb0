from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import evaluated, grid, kinds, model, normal

from subbyte.targets.onnx.rewrites.runtimes import only_for


@pytest.mark.parametrize(("runtime", "stands"), [("onnxruntime", True), ("openvino", False)])
def test_a_grid_is_there_for_its_runtime_alone(runtime: str, stands: bool) -> None:
    own = grid(0.5, 3, 0, 7).replace('""', '"onnxruntime"')
    text = "(float[N, 4] x) => (float[N, 4] y) {{ a = {}(x) y = {}(a) }}"
    both = model(text.format(grid(0.1, 9), own))
    only_for(runtime)(both)
    assert kinds(both)["QuantizeDequantize"] == 1 + stands
    first = "a = {}(x) y = {}(a)" if stands else "y = {}(x)"
    expected = model(
        "(float[N, 4] x) => (float[N, 4] y) { " + first.format(grid(0.1, 9), own) + " }"
    )
    x = normal(5, 4)
    np.testing.assert_array_equal(evaluated(both, x)[0], evaluated(expected, x)[0])
