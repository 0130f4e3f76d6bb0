from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_files import Node, check, proto, rand, saved, whole
from subbyte.errors import SubbyteError
from subbyte.models.onnx.load import load_onnx

CONV: Node = ("Conv", "x w", "y")
WEIGHT = {"w": rand(5, 4, 1, 1)}


def refusal(path: Path) -> str:
    with pytest.raises(SubbyteError) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_weights_among_the_inputs_are_weights(tmp_path: Path) -> None:
    model = proto([CONV], constants=WEIGHT)
    model.graph.input.append(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT["w"].shape)
    )
    check(model, tmp_path)
    assert load_onnx(tmp_path / "model.onnx").input_names == ("x",)


@pytest.mark.parametrize("name", ["self", "nodes", "constants", "merged"])
def test_a_weight_may_have_any_name(name: str, tmp_path: Path) -> None:
    check(proto([("Conv", f"x {name}", "y")], constants={name: WEIGHT["w"]}), tmp_path)


def test_weights_as_nodes_and_behind_an_identity(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(WEIGHT["w"])
    nodes: list[Node] = [
        ("Constant", "", "w", {"value": value}),
        ("Identity", "w", "v"),
        ("Conv", "x v", "y"),
    ]
    check(proto(nodes), tmp_path)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Cast", "x", "h", {"to": TensorProto.FLOAT16}),
        ("Conv", "h w", "c"),
        ("Cast", "c", "y", {"to": TensorProto.FLOAT}),
    ]
    model = proto(nodes, constants={"w": WEIGHT["w"].astype(np.float16)})
    module = load_onnx(saved(model, tmp_path))
    assert [str(p.dtype) for p in module.parameters()] == ["torch.float32"]


def test_functions_are_put_in_their_place(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "Fold", ["a"], ["b"], body, opsets)
    model = proto([("Fold", "x", "y", {"domain": "own"})])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    check(model, tmp_path)


def test_what_no_output_reads_is_left_out(tmp_path: Path) -> None:
    model = proto([CONV, ("NonMaxSuppression", "x x", "unread")], constants=WEIGHT)
    assert len(load_onnx(saved(model, tmp_path)).steps) == 1


def test_several_outputs_in_the_order_of_the_file(tmp_path: Path) -> None:
    model = proto([CONV, ("Relu", "y", "z")], constants=WEIGHT, outputs=("z", "y"))
    check(model, tmp_path)
    module = load_onnx(tmp_path / "model.onnx")
    assert module.output_names == ("z", "y")
    assert module.output_ranks == (4, 4)
    assert module.input_shapes == ((None, 4, 6, 8),)


def test_no_file_and_no_network(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"something else")
    assert "is not an ONNX file" in refusal(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"")
    assert "holds no network" in refusal(tmp_path / "model.onnx")


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = saved(proto([CONV], constants=WEIGHT), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "broken" in refusal(path)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    model = proto([CONV], constants=WEIGHT)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    load_onnx(path)
    (tmp_path / "weights.bin").unlink()
    assert "keeps its weights in 'weights.bin', which is not there" in refusal(path)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([("QuantizeLinear", "x s", "q"), ("DequantizeLinear", "q s", "y")], "quantized already"),
        ([("SequenceConstruct", "x x", "q"), ("SequenceAt", "q i", "y")], "a sequence"),
        ([("Det", "x", "y", {"name": "that one"})], "operator Det of node 'that one' has no"),
        ([("Odd", "x", "y", {"domain": "mine"})], "operator Odd of the domain 'mine' of node 'y'"),
        ([("NonZero", "x", "n"), ("Cast", "n", "y", {"to": 1})], "'n' (NonZero)"),
        (
            [
                ("MaxPool", "x", "p j", {"kernel_shape": [2, 2]}),
                ("MaxUnpool", "p j", "y", {"kernel_shape": [2, 2]}),
            ],
            "operator MaxUnpool of node 'y'",
        ),
        ([("TopK", "x k", "a b"), ("Reshape", "x b", "y")], "takes 'b' from what is in the image"),
    ],
)
def test_what_has_no_counterpart_is_named(nodes: list[Node], says: str, tmp_path: Path) -> None:
    constants = {"s": np.float32(0.1), "i": np.int64(0), "k": whole(1)}
    last = nodes[-1][2]
    assert says in refusal(saved(proto(nodes, constants=constants, outputs=(last,)), tmp_path))


def test_a_loop_is_named(tmp_path: Path) -> None:
    then, other = (
        helper.make_graph(
            [helper.make_node(kind, ["x"], [name])],
            name,
            [],
            [helper.make_empty_tensor_value_info(name)],
        )
        for kind, name in (("Relu", "a"), ("Neg", "b"))
    )
    model = proto([("If", "c", "y", {"then_branch": then, "else_branch": other})])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "c"))
    assert "has a branch (node 'y' is If)" in refusal(saved(model, tmp_path))


def test_files_that_are_too_old(tmp_path: Path) -> None:
    assert "is of opset 8" in refusal(saved(proto([CONV], constants=WEIGHT, opset=8), tmp_path))


def test_what_takes_no_images(tmp_path: Path) -> None:
    model = proto([("Gemm", "x w", "y")], shape=("N", 4), constants={"w": rand(4, 2)})
    assert "is not a vision model: it takes x [None, 4] float32" in refusal(saved(model, tmp_path))


def test_batch_norm_in_training(tmp_path: Path) -> None:
    constants = {name: np.ones(4, np.float32) for name in "sbmv"}
    node = ("BatchNormalization", "x s b m v", "y p q", {"training_mode": 1})
    assert "evaluation mode" in refusal(saved(proto([node], constants=constants), tmp_path))
