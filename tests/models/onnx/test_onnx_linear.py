from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_files import Node, check, proto, rand, whole
from subbyte.models.onnx.load import load_onnx

MEAN: Node = ("ReduceMean", "x axes", "m", {"keepdims": 0})
AXES = whole(2, 3)


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "alpha": 3.0}]
)
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), ()])
def test_gemm(attributes: dict[str, Any], bias: tuple[int, ...], tmp_path: Path) -> None:
    weight = rand(5, 4) if attributes.get("transB") else rand(4, 5)
    constants = {"w": weight, "axes": AXES, "b": rand(*bias)}
    model = proto([MEAN, ("Gemm", "m w b", "y", attributes)], constants=constants)
    check(model, tmp_path)
    assert [step.node.operator for step in load_onnx(tmp_path / "model.onnx").steps] == [
        "ReduceMean",
        "Linear",
    ]


def test_a_product_and_its_bias_are_one_layer(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Transpose", "x", "t", {"perm": [0, 2, 3, 1]}),
        ("MatMul", "t w", "p"),
        ("Add", "bias p", "y"),
    ]
    model = proto(nodes, constants={"w": rand(4, 7), "bias": rand(7)})
    check(model, tmp_path)
    steps = load_onnx(tmp_path / "model.onnx").steps
    assert [step.node.operator for step in steps] == ["Transpose", "Linear"]


def test_an_addition_to_a_product_that_others_read_stays(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", "x w", "p"), ("Add", "p b", "q"), ("Mul", "p q", "y")]
    check(proto(nodes, constants={"w": rand(8, 8), "b": rand(8)}), tmp_path)


def test_products_of_activations(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Transpose", "x", "t", {"perm": [0, 1, 3, 2]}),
        ("MatMul", "x t", "p"),
        ("Softmax", "p", "s"),
        ("MatMul", "s x", "y"),
    ]
    check(proto(nodes), tmp_path)


def test_a_constant_on_the_left(tmp_path: Path) -> None:
    check(proto([("MatMul", "w x", "y")], constants={"w": rand(5, 6)}), tmp_path)


def test_einsum(tmp_path: Path) -> None:
    node = ("Einsum", "x w", "y", {"equation": "nchw,cd->nhwd"})
    check(proto([node], constants={"w": rand(4, 3)}), tmp_path)
