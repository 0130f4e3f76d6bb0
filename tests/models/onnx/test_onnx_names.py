from __future__ import annotations

from pathlib import Path

import pytest

from onnx_files import Node, proto, rand, saved
from subbyte.models.onnx.load import load_onnx
from subbyte.models.onnx.names import SCOPES, layer_of, qualified, scope_of


@pytest.mark.parametrize(
    ("name", "operator", "path"),
    [
        ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0.conv1"),
        ("/model.22/dfl/conv/Conv", "Conv", "model.22.dfl.conv"),
        ("/layer1/layer1.0/relu_1/Relu", "Relu", "layer1.0.relu_1"),
        ("/attn/MatMul_1", "MatMul", "attn"),
        ("Conv_41", "Conv", "Conv_41"),
        ("Call/net/stem/Conv2D", "Conv", "Call.net.stem"),
        ("p2o.Conv.3", "Conv", "p2o.Conv.3"),
    ],
)
def test_where_a_node_belongs(name: str, operator: str, path: str) -> None:
    assert scope_of(name, operator, {}) == path


def test_where_pytorch_says_that_it_belongs() -> None:
    scopes = {SCOPES: "['', 'encoder', 'encoder.layers.0', 'linear']"}
    assert scope_of("node_linear", "MatMul", scopes) == "encoder.layers.0"


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("head.cls_preds.0.weight", "head.cls_preds.0"),
        ("conv2d_0.w_0", "conv2d_0"),
        ("net/stem/Conv2D/ReadVariableOp:0", "net.stem"),
        ("net/dense/kernel:0", "net.dense"),
        ("attn.in_proj_weight", "attn.in_proj_weight"),
    ],
)
def test_layers_by_their_weights(weight: str, layer: str) -> None:
    assert layer_of(weight) == layer


def test_names_that_modules_cannot_have() -> None:
    assert qualified("a b/train..c:0/block-1") == "a_b.train_.c_0.block-1"


def layers(folder: Path, nodes: list[Node], **weights: tuple[int, ...]) -> list[str]:
    model = proto(nodes, constants={name: rand(*shape) for name, shape in weights.items()})
    module = load_onnx(saved(model, folder))
    return [name.removesuffix(".weight") for name, _ in module.named_parameters()]


def test_names_of_layers(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Conv", "x a.weight", "1", {"name": "Conv_0"}),
        ("Conv", "1 onnx::Conv_7", "2", {"name": "/b/c/Conv"}),
        ("Conv", "2 8", "3", {"name": "Conv_2"}),
        ("Conv", "3 a.weight", "4", {"name": "Conv_3"}),
        ("MatMul", "4 onnx::MatMul_9", "5", {"name": "MatMul_4"}),
        ("Add", "5 d.bias", "y", {"name": "Add_5"}),
    ]
    square = (4, 4, 1, 1)
    weights = {"a.weight": square, "onnx::Conv_7": square, "8": square}
    vectors = {"onnx::MatMul_9": (8, 8), "d.bias": (8,)}
    found = layers(tmp_path, nodes, **weights, **vectors)
    assert found == ["a", "b.c", "Conv_2", "d", "d.bias"]


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Conv", "x 1", "u", {"name": "/b/Conv"}),
        ("Conv", "u 2", "y", {"name": "/b/Conv_1"}),
    ]
    found = layers(tmp_path, nodes, **{"1": (4, 4, 1, 1), "2": (4, 4, 1, 1)})
    assert found == ["b", "b_2"]
