from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onnx_files import Node, check, floats, proto, rand, same, saved, whole
from subbyte.models.onnx.load import load_onnx


def test_batch_norm(tmp_path: Path) -> None:
    constants = {name: rand(4, seed=i) for i, name in enumerate("sbm")}
    constants["v"] = np.abs(rand(4)) + 0.5
    node = ("BatchNormalization", "x s b m v", "y", {"epsilon": 1e-3})
    check(proto([node], constants=constants), tmp_path)
    check(proto([node], constants=constants, opset=9), tmp_path)


def test_a_batch_norm_can_be_trained_through(tmp_path: Path) -> None:
    constants = {name: rand(4, seed=i) for i, name in enumerate("sbm")}
    constants["v"] = np.abs(rand(4)) + 0.5
    model = proto([("BatchNormalization", "x s b m v", "y")], constants=constants)
    module = load_onnx(saved(model, tmp_path))
    module(torch.ones(2, 4, 6, 8)).sum().backward()
    trained = {name for name, value in module.named_parameters() if value.grad is not None}
    assert len(trained) == len(list(module.parameters())) == 2


@pytest.mark.parametrize(("axis", "shape"), [(-1, (8,)), (1, (4, 6, 8)), (2, (6, 8))])
def test_layer_norm(axis: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    node = ("LayerNormalization", "x w b", "y", {"axis": axis})
    check(proto([node], constants={"w": rand(*shape), "b": rand(*shape, seed=1)}), tmp_path)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_layer_norm_of_old_files_is_one_operator(square: str, tmp_path: Path) -> None:
    squared: Node = ("Pow", "c two", "q") if square == "Pow" else ("Mul", "c c", "q")
    nodes: list[Node] = [
        ("ReduceMean", "x", "m", {"axes": [-1]}),
        ("Sub", "x m", "c"),
        squared,
        ("ReduceMean", "q", "v", {"axes": [-1]}),
        ("Add", "v eps", "a"),
        ("Sqrt", "a", "s"),
        ("Div", "c s", "n"),
        ("Mul", "n weight", "p"),
        ("Add", "p bias", "y"),
    ]
    constants = {"two": floats(2), "eps": floats(1e-3), "weight": rand(8), "bias": rand(8, seed=1)}
    check(proto(nodes, constants=constants, opset=12), tmp_path)
    steps = load_onnx(tmp_path / "model.onnx").steps
    assert [step.node.operator for step in steps] == ["LayerNormalization"]


def test_other_norms(tmp_path: Path) -> None:
    channels = {"s": rand(4), "b": rand(4, seed=1)}
    check(proto([("InstanceNormalization", "x s b", "y")], constants=channels), tmp_path)
    # onnx.reference leaves the last channel out.
    check(proto([("LRN", "x", "y", {"size": 3, "alpha": 0.1})]), tmp_path, reference=False)
    check(proto([("LpNormalization", "x", "y", {"axis": 1})]), tmp_path)
    check(proto([("MeanVarianceNormalization", "x", "y", {"axes": [2, 3]})]), tmp_path)


def test_local_response_of_sequences(tmp_path: Path) -> None:
    x = rand(3, 4, 6)
    node: Node = ("LRN", "x", "y", {"size": 3, "alpha": 0.1})
    module = load_onnx(saved(proto([node], ("N", 4, 6)), tmp_path))
    padded = np.pad(x.astype(np.float64) ** 2, ((0, 0), (1, 1), (0, 0)))
    squares = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    with torch.no_grad():
        same(module(torch.from_numpy(x)), x / (1 + 0.1 / 3 * squares) ** 0.75)


def test_group_norm(tmp_path: Path) -> None:
    node: Node = ("GroupNormalization", "x s b", "y", {"num_groups": 2})
    channels = {"s": rand(4), "b": rand(4, seed=1)}
    check(proto([node], constants=channels, opset=21), tmp_path)


def test_group_norm_of_old_pytorch_files(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Reshape", "x groups", "g"),
        ("InstanceNormalization", "g s b", "n"),
        ("Shape", "x", "shape"),
        ("Reshape", "n shape", "r"),
        ("Mul", "r w", "p"),
        ("Add", "p a", "y"),
    ]
    constants = {
        "groups": whole(0, 2, -1),
        "s": floats(1, 1),
        "b": floats(0, 0),
        "w": rand(4, 1, 1),
        "a": rand(4, 1, 1, seed=1),
    }
    check(proto(nodes, constants=constants, opset=11), tmp_path)
