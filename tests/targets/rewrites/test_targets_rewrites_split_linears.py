from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import grid, kinds, model, rewritten

from subbyte.targets.onnx.rewrites.split_linears import split_linears

BEFORE = f"""(float[N, 5, 6] x) => (float q, float k, float v) {{
    a = {grid(0.05, 128)}(x)
    w = DequantizeLinear <axis = 1> (w_integers, w_scale)
    b = DequantizeLinear <axis = 0> (b_integers, b_scale)
    whole = subbyte.Linear(a, w, b)
"""
AFTER = f"q = {grid(0.02, 128)}(q_) k = {grid(0.03, 120)}(k_) v = {grid(0.04, 130)}(v_) }}"
TO_5D = "r = Reshape <allowzero = 1> (whole, five) "
WAYS = {
    "permuted, gathered": TO_5D
    + """t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
        q_ = Gather <axis = 0> (t, i0) k_ = Gather <axis = 0> (t, i1) v_ = Gather <axis = 0> (t, i2)
    """,
    "sliced, squeezed": TO_5D
    + """t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
        q0 = Slice(t, s0, s1, s0) k0 = Slice(t, s1, s2, s0) v0 = Slice(t, s2, s3, s0)
        q_ = Squeeze(q0, s0) k_ = Squeeze(k0, s0) v_ = Squeeze(v0, s0)
    """,
    "split": """q0, k0, v0 = Split <axis = -1, num_outputs = 3> (whole)
        q1 = Reshape(q0, four) q_ = Transpose <perm = [0, 2, 1, 3]> (q1)
        k1 = Reshape(k0, four) k_ = Transpose <perm = [0, 2, 1, 3]> (k1)
        v1 = Reshape(v0, four) v_ = Transpose <perm = [0, 2, 1, 3]> (v1)
    """,
    "as torch's attention": """r = Reshape <allowzero = 1> (whole, wide) u = Unsqueeze(r, s0)
        t = Transpose <perm = [3, 1, 2, 0, 4]> (u) z = Squeeze(t, third)
        q0 = Gather <axis = 0> (z, i0) k0 = Gather <axis = 0> (z, i1) v0 = Gather <axis = 0> (z, i2)
        q1 = Reshape(q0, four) q2 = Mul(q1, half) q_ = Transpose <perm = [0, 2, 1, 3]> (q2)
        k1 = Reshape(k0, four) k_ = Transpose <perm = [0, 2, 1, 3]> (k1)
        v1 = Reshape(v0, four) v_ = Transpose <perm = [0, 2, 1, 3]> (v1)
    """,
}


def constants() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    numbers = {f"i{n}": np.int64(n) for n in range(3)}
    numbers |= {f"s{n}": np.array([n]) for n in range(4)}
    return numbers | {
        "w_integers": generator.integers(-127, 128, (6, 24)).astype(np.int8),
        "w_scale": generator.uniform(0.001, 0.002, 24).astype(np.float32),
        "b_integers": generator.integers(-999, 999, 24).astype(np.int32),
        "b_scale": np.full(24, 0.0001, np.float32),
        "five": np.array([-1, 5, 3, 2, 4]),
        "four": np.array([-1, 5, 2, 4]),
        "wide": np.array([-1, 5, 3, 8]),
        "third": np.array([3]),
        "half": np.float32(0.5),
    }


@pytest.mark.parametrize("way", WAYS)
def test_each_part_is_a_layer_of_its_own(way: str) -> None:
    after = rewritten(model(BEFORE + WAYS[way] + AFTER, **constants()), split_linears)
    found = kinds(after)
    assert found["Linear"] == 3
    assert not found.keys() & {"Gather", "Slice", "Split"}
    weights = [
        node.inputs[1].producer().inputs[0].shape
        for node in after.graph
        if node.op_type == "Linear"
    ]
    assert [tuple(shape) for shape in weights] == [(6, 8)] * 3


def test_one_scale_for_all_channels_is_shared() -> None:
    given = constants() | {"w_scale": np.float32(0.0015)}
    text = (BEFORE + WAYS["split"] + AFTER).replace(" <axis = 1> (w_", " (w_")
    assert kinds(rewritten(model(text, **given), split_linears))["Linear"] == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"q = {grid(0.02, 128)}(q_)", "q = Identity(q_)"),  # a part that stays in float
        (f"a = {grid(0.05, 128)}(x)", "a = Identity(x)"),  # a layer that reads floats
        ("whole = subbyte", f"o = {grid(0.1, 0)}(x) whole = subbyte"),  # nothing: the control
    ],
)
def test_a_layer_stays_whole_unless_all_its_parts_are_on_grids(old: str, new: str) -> None:
    text = (BEFORE + WAYS["permuted, gathered"] + AFTER).replace(old, new)
    after = rewritten(model(text, **constants()), split_linears)
    assert kinds(after)["Linear"] == (3 if "whole" in old else 1)
