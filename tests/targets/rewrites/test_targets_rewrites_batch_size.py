from __future__ import annotations

import pytest
from rewrites_helpers import grid, kinds, model, normal, rewritten

from subbyte.targets.onnx.rewrites.batch_size import ask_first
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators

ASKS = f"""(float[N, 2, 3, 3] x) => (float y) {{
    a = {grid(0.1, 3)}(x)
    c = Conv(a, w, b)
    size = Shape <start = 0, end = 1> (c)
    y = Expand(c, size)
}}"""


def test_the_batch_is_asked_for_at_the_input_first() -> None:
    before = model(ASKS, w=normal(2, 2, 3, 3), b=normal(2))
    after = rewritten(before, write_own_operators, ask_first)
    assert [node.op_type for node in after.graph][:4] == [
        "Shape",
        "Concat",
        "Expand",
        "QuantizeLinear",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (", b)", ")"),  # no bias, of whose rank is asked
        ("size = Shape <start = 0, end = 1> (c)", "size = Constant <value_ints = [1]> ()"),
        (f"{grid(0.1, 3)}(x)", "Identity(x)"),  # no integers
    ],
)
def test_other_files_stay(old: str, new: str) -> None:
    before = model(ASKS.replace(old, new), w=normal(2, 2, 3, 3), b=normal(2))
    after = rewritten(before, write_own_operators, ask_first)
    assert kinds(after) == kinds(rewritten(before, write_own_operators))
