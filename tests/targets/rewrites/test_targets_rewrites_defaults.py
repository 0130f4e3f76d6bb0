from __future__ import annotations

import pytest
from rewrites_helpers import model, normal, rewritten

from subbyte.targets.onnx.rewrites.defaults import leave_out_defaults


@pytest.mark.parametrize(
    ("operator", "attributes", "left"),
    [
        ("Conv", "strides = [1, 1], dilations = [1, 1], group = 1, pads = [0, 0, 0, 0]", set()),
        ("Conv", 'strides = [2, 2], pads = [1, 1, 1, 1], auto_pad = "NOTSET"', {"strides", "pads"}),
        ("Conv", "dilations = [2, 1], strides = [1, 2]", {"dilations", "strides"}),
        ("ConvTranspose", "strides = [1, 1], kernel_shape = [2, 2]", {"kernel_shape"}),
    ],
)
def test_windows_keep_what_differs(operator: str, attributes: str, left: set[str]) -> None:
    text = f"(float[N, 2, 5, 6] x) => (float y) {{ y = {operator} <{attributes}> (x, w) }}"
    after = rewritten(model(text, w=normal(2, 2, 2, 2)), leave_out_defaults)
    assert set(after.graph.node(0).attributes) == left


@pytest.mark.parametrize(
    ("node", "left"),
    [
        ("Softmax <axis = -1> (x)", set()),
        ("Softmax <axis = 0> (x)", {"axis"}),
        ("Gemm <alpha = 1.0, beta = 0.5, transA = 0> (x, w)", {"beta"}),
        ("LeakyRelu <alpha = 0.25> (x)", {"alpha"}),
        ("Cast <to = 1> (x)", {"to"}),  # which has no default
        ('Pad <mode = "constant"> (x, p)', set()),
    ],
)
def test_defaults_are_those_of_the_operators_definition(node: str, left: set[str]) -> None:
    constants = {"w": normal(3, 3), "p": [0, 1, 0, 1]}
    held = {name: value for name, value in constants.items() if f" {name})" in node}
    text = f"(float[N, 3] x) => (float y) {{ y = {node} }}"
    after = rewritten(model(text, **held), leave_out_defaults)
    assert set(after.graph.node(0).attributes) == left
