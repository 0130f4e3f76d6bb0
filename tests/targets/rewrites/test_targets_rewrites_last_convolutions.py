from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import grid, kinds, model, rewritten

from subbyte.targets.onnx.rewrites.last_convolutions import write_last_convolutions

TEXT = """(float[N, 4, 9, 8] x) => (float y) {{
    a = {grid}(x)
    w = DequantizeLinear <axis = 0> (w_integers, w_scale)
    b = DequantizeLinear <axis = 0> (b_integers, b_scale)
    {nodes}
}}"""


def constants(sides: tuple[int, int] = (3, 3), inputs: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "w_integers": generator.integers(-127, 128, (6, inputs, *sides)).astype(np.int8),
        "w_scale": generator.uniform(0.001, 0.002, 6).astype(np.float32),
        "b_integers": generator.integers(-999, 999, 6).astype(np.int32),
        "b_scale": np.full(6, 0.0001, np.float32),
    }


@pytest.mark.parametrize(
    ("sides", "settings"),
    [
        ((3, 3), "pads = [1, 1, 1, 1]"),
        ((2, 3), "strides = [2, 1], pads = [0, 2, 0, 2], dilations = [1, 2]"),
        ((2, 3), "strides = [1, 3], pads = [1, 0, 0, 2]"),
        ((1, 1), "strides = [3, 2]"),
    ],
)
@pytest.mark.parametrize("bias", ["", ", b"])
def test_it_is_the_product_of_its_patches(sides: tuple[int, int], settings: str, bias: str) -> None:
    nodes = f"y = Conv <{settings}> (a, w{bias})"
    text = TEXT.format(grid=grid(0.05, 100), nodes=nodes)
    after = rewritten(model(text, **constants(sides)), write_last_convolutions, tolerance=1e-5)
    assert (kinds(after)["Conv"], kinds(after)["Linear"]) == (0, 1)


def test_two_that_share_a_weight_share_its_matrix() -> None:
    nodes = "c = Conv(a, w, b) d = Conv(a, w) y = Add(c, d)"
    before = model(TEXT.format(grid=grid(0.05, 100), nodes=nodes), **constants())
    after = rewritten(before, write_last_convolutions, tolerance=1e-5)
    assert kinds(after)["Linear"] == 2
    assert sum(str(name).startswith("w_matrix") for name in after.graph.initializers) == 1


@pytest.mark.parametrize(
    ("nodes", "inputs"),
    [
        (f"c = Conv(a, w, b) y = {grid(0.1, 0)}(c)", 4),  # whose result is on a grid
        ("y = Conv(x, w, b)", 4),  # which reads floats
        ("y = Conv <group = 2> (a, w, b)", 2),
    ],
)
def test_others_stay(nodes: str, inputs: int) -> None:
    text = TEXT.format(grid=grid(0.05, 100), nodes=nodes)
    before = model(text, **constants(inputs=inputs))
    assert kinds(rewritten(before, write_last_convolutions))["Conv"] == 1
