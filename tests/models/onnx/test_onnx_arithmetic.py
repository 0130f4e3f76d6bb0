from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_files import Node, check, floats, proto, rand


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (8,), (4, 1, 1), (1, 4, 6, 8)])
def test_of_a_tensor_and_a_constant(operator: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    constants = {"c": np.asarray(np.abs(rand(*shape)) + 0.5, dtype=np.float32)}
    check(proto([(operator, "x c", "y")], constants=constants), tmp_path)
    check(proto([(operator, "c x", "y")], constants=constants), tmp_path, np.abs(rand(3, 4, 6, 8)))


@pytest.mark.parametrize(
    "operator",
    ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Round", "Sign", "Sin"],
)
def test_of_one_tensor(operator: str, tmp_path: Path) -> None:
    check(proto([(operator, "x", "y")]), tmp_path)


@pytest.mark.parametrize("operator", ["Log", "Sqrt", "Reciprocal"])
def test_of_positive_numbers(operator: str, tmp_path: Path) -> None:
    check(proto([("Abs", "x", "a"), (operator, "a", "y")]), tmp_path)


@pytest.mark.parametrize("operator", ["Max", "Min", "Sum", "Mean"])
def test_of_many(operator: str, tmp_path: Path) -> None:
    nodes: list[Node] = [("Neg", "x", "n"), (operator, "x n c", "y")]
    check(proto(nodes, constants={"c": floats(0.3)}), tmp_path)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5])
def test_powers(exponent: float, tmp_path: Path) -> None:
    nodes: list[Node] = [("Abs", "x", "a"), ("Pow", "a e", "y")]
    check(proto(nodes, constants={"e": floats(exponent)}), tmp_path)


@pytest.mark.parametrize("operator", ["Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"])
def test_comparisons_and_choices(operator: str, tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Round", "x", "r"),
        (operator, "r c", "is"),
        ("Not", "is", "not"),
        ("And", "is is", "and"),
        ("Or", "and not", "or"),
        ("Where", "is x other", "w"),
        ("Cast", "not", "n", {"to": 1}),
        ("Cast", "or", "o", {"to": 1}),
        ("Add", "w n", "a"),
        ("Add", "a o", "y"),
    ]
    check(proto(nodes, constants={"c": floats(1), "other": rand(4, 1, 1)}), tmp_path)


def test_remainders(tmp_path: Path) -> None:
    check(proto([("Mod", "x c", "y", {"fmod": 1})], constants={"c": floats(0.7)}), tmp_path)


def test_whole_numbers_are_divided_towards_zero(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Cast", "x", "i", {"to": 7}),
        ("Div", "i two", "d"),
        ("Cast", "d", "y", {"to": 1}),
    ]
    check(proto(nodes, constants={"two": np.int64(2)}), tmp_path, 5 * rand(3, 4, 6, 8))
