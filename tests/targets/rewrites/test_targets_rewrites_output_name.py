from __future__ import annotations

import pytest
from rewrites_helpers import model, normal, rewritten

from subbyte.targets.onnx.rewrites.output_name import rename_output


@pytest.mark.parametrize(
    ("outputs", "nodes", "names"),
    [
        ("float y", "y = Relu(x)", ["output"]),
        ("float output", "output = Relu(x)", ["output"]),
        ("float y", "output = Relu(x) y = Neg(output)", ["output_"]),
        ("float y, float z", "y = Relu(x) z = Neg(x)", ["y", "z"]),
    ],
)
def test_a_single_output_is_called_so(outputs: str, nodes: str, names: list[str]) -> None:
    after = rewritten(model(f"(float[N, 3] x) => ({outputs}) {{ {nodes} }}"), rename_output)
    assert [output.name for output in after.graph.outputs] == names


def test_a_constant_keeps_its_name() -> None:
    text = "(float[N, 3] x) => (float y) { y = Add(x, output) }"
    after = rewritten(model(text, output=normal(3)), rename_output)
    assert after.graph.outputs[0].name == "output_"
