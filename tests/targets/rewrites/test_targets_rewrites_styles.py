from __future__ import annotations

import pytest
from rewrites_helpers import kinds, model, normal, qdq, rewritten

from subbyte.targets.onnx.qdq import Style, qdq_nodes, settings
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.styles import stop_fusions, style_for_openvino

HEAD = "(float[N, 3, 5, 5] x) => (float[N, 3, 5, 5] y) "
ADDED = f"{HEAD} {{ a = Conv(x, w) b = {qdq(0.1, 100)}(a) y = Add(x, b) }}"
WEIGHT = normal(3, 3, 1, 1)


def styles(text: str, rewrite: object) -> list[str]:
    """How the Q/DQ of a graph are written after a rewrite that changes no value."""
    before = model(text, w=WEIGHT)
    rewritten(before, rewrite, write_own_operators)  # type: ignore[arg-type]
    after = rewritten(before, rewrite)  # type: ignore[arg-type]
    return [settings(node).style for node in qdq_nodes(after)]


def test_a_convolution_in_front_of_an_addition_has_a_barrier() -> None:
    assert styles(ADDED, stop_fusions) == [Style.POOL]
    assert styles(ADDED, style_for_openvino) == [Style.LEAKY]


def test_no_barrier_where_something_else_is_added() -> None:
    text = ADDED.replace("Conv(x, w)", "Sigmoid(x)")
    assert styles(text, stop_fusions) == styles(text, style_for_openvino) == [Style.INTEGERS]


def test_a_second_reader_is_a_barrier_for_openvino() -> None:
    text = ADDED.replace("y = Add(x, b)", "c = Sigmoid(b) y = Add(c, b)")
    assert styles(text, stop_fusions) == [Style.POOL]
    assert styles(text, style_for_openvino) == [Style.INTEGERS]


@pytest.mark.parametrize(
    ("zero_point", "expected"),
    [(7, [Style.SHIFT, Style.FLOATS]), (0, [Style.FLOATS])],
)
def test_openvino_clips_in_floats_and_shifts_behind(zero_point: int, expected: list[str]) -> None:
    text = f"{HEAD} {{ a = {qdq(0.2, zero_point, 0, 15)}(x) b = Mul(a, a) y = Add(b, a) }}"
    assert styles(text, style_for_openvino) == expected


def test_what_products_alone_read_is_written_once() -> None:
    text = f"{HEAD} {{ a = {qdq(0.2, 7)}(x) y = Mul(a, x) }}"
    assert styles(text, style_for_openvino) == [Style.SHIFT]


def test_the_barriers_are_operators_that_change_nothing() -> None:
    before = model(ADDED, w=WEIGHT)
    assert kinds(rewritten(before, stop_fusions, write_own_operators))["MaxPool"] == 1
    assert kinds(rewritten(before, style_for_openvino, write_own_operators))["LeakyRelu"] == 1


@pytest.mark.parametrize(
    ("between", "expected"),
    [("e = Add(a, one)", Style.LEAKY), ("e = Relu(a)", Style.INTEGERS)],
)
def test_numbers_behind_a_convolution_do_not_part_it(between: str, expected: str) -> None:
    text = ADDED.replace("b = ", f"{between} b = ").replace("(a) y", "(e) y")
    text = text.replace("{ a", "{ one = Constant <value_float = 1.0> () a")
    assert styles(text, style_for_openvino) == [expected]
    assert styles(text, stop_fusions) == [Style.INTEGERS]
