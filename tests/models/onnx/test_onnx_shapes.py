from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_files import Node, check, proto, rand, saved, whole
from subbyte.errors import SubbyteError
from subbyte.models.onnx.load import load_onnx


@pytest.mark.parametrize("shape", [(0, -1), (-1, 4, 48), (0, 0, 48), (-1, 8)])
def test_reshape(shape: tuple[int, ...], tmp_path: Path) -> None:
    check(proto([("Reshape", "x s", "y")], constants={"s": whole(*shape)}), tmp_path)


@pytest.mark.parametrize("axis", [1, 2, 4, -1])
def test_flatten(axis: int, tmp_path: Path) -> None:
    check(proto([("Flatten", "x", "y", {"axis": axis})]), tmp_path)


def test_transpose(tmp_path: Path) -> None:
    check(proto([("Transpose", "x", "y", {"perm": [0, 3, 1, 2]})]), tmp_path)


def test_axes_of_length_one(tmp_path: Path) -> None:
    nodes: list[Node] = [("Unsqueeze", "x a", "u"), ("Relu", "u", "r"), ("Squeeze", "r b", "y")]
    check(proto(nodes, constants={"a": whole(2, -1), "b": whole(-1)}), tmp_path)
    old: list[Node] = [
        ("Unsqueeze", "x", "u", {"axes": [1, 3]}),
        ("Relu", "u", "r"),
        ("Squeeze", "r", "y", {"axes": [3]}),
    ]
    check(proto(old, opset=11), tmp_path)


def test_together_and_apart(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Split", "x sizes", "a b", {"axis": 1}),
        ("Concat", "b x a", "y", {"axis": -3}),
    ]
    check(proto(nodes, constants={"sizes": whole(1, 3)}), tmp_path)
    old: list[Node] = [("Split", "x", "a b", {"axis": 1, "split": [1, 3]}), nodes[1]]
    check(proto(old, opset=11), tmp_path)
    alike: list[Node] = [("Split", "x", "a b", {"axis": 2}), ("Sub", "a b", "y")]
    check(proto(alike, opset=13), tmp_path)
    counted: list[Node] = [
        ("Split", "x", "a b c", {"axis": 3, "num_outputs": 3}),
        ("Concat", "c a b", "y", {"axis": 3}),
    ]
    check(proto(counted, opset=18), tmp_path)


def test_spread_and_repeated(tmp_path: Path) -> None:
    nodes: list[Node] = [("Unsqueeze", "x a", "u"), ("Expand", "u s", "y")]
    check(proto(nodes, constants={"a": whole(2), "s": whole(1, 1, 5, 1, 1)}), tmp_path)
    check(proto([("Tile", "x n", "y")], constants={"n": whole(1, 2, 1, 3)}), tmp_path)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_and_pixels(mode: str, tmp_path: Path) -> None:
    check(proto([("DepthToSpace", "x", "y", {"blocksize": 2, "mode": mode})]), tmp_path)
    check(proto([("SpaceToDepth", "x", "y", {"blocksize": 2})]), tmp_path)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str, tmp_path: Path) -> None:
    pads = whole(0, 0, 1, 2, 0, 0, 3, 1)
    node: Node = ("Pad", "x pads value", "y", {"mode": mode})
    check(proto([node], constants={"pads": pads, "value": np.float32(0.5)}), tmp_path)
    old: dict[str, Any] = {"mode": mode, "pads": pads.tolist(), "value": 0.5}
    check(proto([("Pad", "x", "y", old)], opset=9), tmp_path)


def test_pad_of_channels_and_of_chosen_axes(tmp_path: Path) -> None:
    check(proto([("Pad", "x p", "y")], constants={"p": whole(0, 1, 0, 0, 0, 2, 0, 0)}), tmp_path)
    constants = {"p": whole(1, 2), "a": whole(-1)}
    check(proto([("Pad", "x p _ a", "y")], constants=constants, opset=18), tmp_path)
    cut = {"p": whole(0, 0, -1, 0, 0, 0, 0, -2)}
    # onnx.reference cuts nothing off.
    check(proto([("Pad", "x p", "y")], constants=cut), tmp_path, reference=False)


def test_shapes_that_are_computed(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Shape", "x", "s"),
        ("Gather", "s zero", "n", {"axis": 0}),
        ("Gather", "s two", "h", {"axis": 0}),
        ("Gather", "s three", "w", {"axis": 0}),
        ("Mul", "h w", "hw"),
        ("Div", "hw two", "half"),
        ("Unsqueeze", "n front", "n1"),
        ("Unsqueeze", "half front", "half1"),
        ("Concat", "n1 minus half1", "shape", {"axis": 0}),
        ("Reshape", "x shape", "y"),
    ]
    constants = {
        "zero": np.int64(0),
        "two": np.int64(2),
        "three": np.int64(3),
        "front": whole(0),
        "minus": whole(-1),
    }
    check(proto(nodes, constants=constants), tmp_path)


def test_expand_as_old_pytorch_writes_it(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Shape", "x", "s"),
        ("Slice", "s a b", "n"),
        ("Concat", "n minus minus minus", "wanted", {"axis": 0}),
        ("Shape", "wanted", "rank"),
        ("ConstantOfShape", "rank", "ones", {"value": _one()}),
        ("Equal", "wanted minus", "is"),
        ("Where", "is ones wanted", "shape"),
        ("Expand", "token shape", "e"),
        ("Concat", "e x", "y", {"axis": 1}),
    ]
    constants = {"a": whole(0), "b": whole(1), "minus": whole(-1), "token": rand(1, 1, 6, 8)}
    check(proto(nodes, constants=constants, opset=14), tmp_path)


def test_what_only_training_needs_does_nothing(tmp_path: Path) -> None:
    nodes: list[Node] = [("Dropout", "x", "d"), ("Identity", "d", "i"), ("Relu", "i", "y")]
    check(proto(nodes), tmp_path)
    check(proto([("Dropout", "x", "d", {"ratio": 0.5}), ("Relu", "d", "y")], opset=9), tmp_path)


def test_attention(tmp_path: Path) -> None:
    check(
        proto([("Attention", "x x x mask", "y")], constants={"mask": rand(6, 6)}, opset=23),
        tmp_path,
    )
    causal: dict[str, Any] = {"is_causal": 1, "scale": 0.4}
    check(proto([("Attention", "x x x", "y", causal)], opset=23), tmp_path)


def test_windows_of_attention_are_refused(tmp_path: Path) -> None:
    node: Node = ("Attention", "x x x", "y", {"left_window_size": 2})
    with pytest.raises(SubbyteError, match=r"'y' \(Attention\) has a window"):
        load_onnx(saved(proto([node], opset=28), tmp_path))


def _one() -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(whole(1))
