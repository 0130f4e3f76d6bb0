from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_files import Node, check, floats, proto, rand
from subbyte.models.onnx.load import load_onnx


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Relu", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("HardSwish", {}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Elu", {"alpha": 0.7}),
        ("Selu", {}),
        ("Celu", {"alpha": 0.7}),
        ("ThresholdedRelu", {"alpha": 0.4}),
        ("Mish", {}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("Softmax", {}),
        ("Softmax", {"axis": 1}),
        ("LogSoftmax", {"axis": 1}),
        ("Hardmax", {"axis": 1}),
        ("Shrink", {"lambd": 0.4, "bias": 0.1}),
    ],
)
def test_functions(operator: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    check(proto([(operator, "x", "y", attributes)]), tmp_path, 2 * rand(3, 4, 6, 8))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_softmax_of_old_files_is_over_all_axes_from_one_on(axis: int, tmp_path: Path) -> None:
    check(proto([("Softmax", "x", "y", {"axis": axis})], opset=11), tmp_path)


def test_softmax_of_old_files_begins_at_the_second_axis(tmp_path: Path) -> None:
    check(proto([("Softmax", "x", "y")], opset=9), tmp_path)


@pytest.mark.parametrize(
    "ends", [(0.0, 6.0), (-0.5, 0.5), (0.0, 3.4e38), (-0.5, None), (None, 1.0), (0.0, None)]
)
def test_limits(ends: tuple[float | None, float | None], tmp_path: Path) -> None:
    constants = {n: np.float32(v) for n, v in zip("ab", ends, strict=True) if v is not None}
    names = " ".join(n if n in constants else "_" for n in "ab")
    x = 4 * rand(3, 4, 6, 8)
    check(proto([("Clip", f"x {names}", "y")], constants=constants), tmp_path, x)
    old = {n: v for n, v in zip(("min", "max"), ends, strict=True) if v is not None}
    check(proto([("Clip", "x", "y", old)], opset=9), tmp_path, x)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (4, 6, 8)])
def test_prelu(shape: tuple[int, ...], tmp_path: Path) -> None:
    check(proto([("PRelu", "x w", "y")], constants={"w": rand(*shape)}), tmp_path)


HALVES = {"two": floats(np.sqrt(2)), "one": floats(1), "half": floats(0.5)}
GELUS: list[list[Node]] = [
    [("Mul", "x g", "p"), ("Mul", "p half", "y")],
    [("Mul", "half x", "p"), ("Mul", "p g", "y")],
    [("Mul", "g half", "p"), ("Mul", "x p", "y")],
]


@pytest.mark.parametrize("end", GELUS)
def test_gelu_of_old_files_is_one_operator(end: list[Node], tmp_path: Path) -> None:
    begin: list[Node] = [("Div", "x two", "d"), ("Erf", "d", "e"), ("Add", "one e", "g")]
    check(proto([*begin, *end], constants=HALVES, opset=13), tmp_path)
    assert _operators(tmp_path) == ["Gelu"]


def test_what_only_looks_like_gelu_stays(tmp_path: Path) -> None:
    begin: list[Node] = [("Div", "x two", "d"), ("Erf", "d", "e"), ("Add", "one e", "g")]
    constants = {**HALVES, "half": floats(0.6)}
    check(proto([*begin, *GELUS[0]], constants=constants, opset=13), tmp_path)
    assert "Gelu" not in _operators(tmp_path)


def test_hard_swish_of_old_files_is_one_operator(tmp_path: Path) -> None:
    constants = {"three": floats(3), "six": floats(6), "low": np.float32(0), "high": np.float32(6)}
    nodes: list[Node] = [
        ("Add", "x three", "a"),
        ("Clip", "a low high", "c"),
        ("Mul", "x c", "p"),
        ("Div", "p six", "y"),
    ]
    check(proto(nodes, constants=constants, opset=11), tmp_path, 4 * rand(3, 4, 6, 8))
    assert _operators(tmp_path) == ["HardSwish"]
    gate: list[Node] = [("HardSigmoid", "x", "g", {"alpha": 1 / 6}), ("Mul", "x g", "y")]
    check(proto(gate, opset=11), tmp_path, 4 * rand(3, 4, 6, 8))
    assert _operators(tmp_path) == ["HardSwish"]


def _operators(folder: Path) -> list[str]:
    return [step.node.operator for step in load_onnx(folder / "model.onnx").steps]
