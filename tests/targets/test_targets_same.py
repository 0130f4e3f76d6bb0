"""When two graphs are the same file."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from subbyte.targets.onnx.same import are_same

HEAD = "(float[N, 3] x) => (float[N, 3] y) "
TEXT = HEAD + "{ a = Add(x, c) b = LeakyRelu <alpha = 0.5> (a) y = Mul(a, b) }"


def model(text: str = TEXT, content: float = 1.0) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g ' + text)
    constant = numpy_helper.from_array(np.full(3, content, np.float32), "c")
    proto.graph.initializer.append(constant)
    return ir.from_proto(proto)


def test_names_are_not_compared() -> None:
    assert are_same(model(), model())
    assert are_same(model(), model().clone())
    renamed = HEAD + "{ q = Add(x, c) r = LeakyRelu <alpha = 0.5> (q) y = Mul(q, r) }"
    assert are_same(model(), model(renamed))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("Mul(a, b)", "Mul(b, a)"),
        ("Mul(a, b)", "Div(a, b)"),
        ("Mul(a, b)", "Mul(a, a)"),
        ("y = Mul(a, b)", "z = Mul(a, b) y = Neg(z)"),
    ],
)
def test_other_nodes_are_another_file(old: str, new: str) -> None:
    assert not are_same(model(), model(TEXT.replace(old, new)))


def test_other_constants_are_another_file() -> None:
    assert not are_same(model(), model(content=2.0))
