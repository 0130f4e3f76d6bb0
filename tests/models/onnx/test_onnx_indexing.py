from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_files import Node, check, floats, proto, rand, whole

END = np.iinfo(np.int64).max


@pytest.mark.parametrize(
    ("start", "end", "axis", "step"),
    [
        (1, 3, 1, 1),
        (0, END, 2, 2),
        (-3, END, 3, 1),
        (-1, -END, 3, -1),
        (5, 0, 2, -2),
        (0, -1, 1, 1),
    ],
)
def test_slices(start: int, end: int, axis: int, step: int, tmp_path: Path) -> None:
    constants = {"s": whole(start), "e": whole(end), "a": whole(axis), "p": whole(step)}
    check(proto([("Slice", "x s e a p", "y")], constants=constants), tmp_path)
    if step == 1:
        old = {"starts": [start], "ends": [end], "axes": [axis]}
        check(proto([("Slice", "x", "y", old)], opset=9), tmp_path)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("indices", [np.int64(2), np.int64(-1), whole(1, 0, -1), whole(2, 1)[None]])
def test_gather(axis: int, indices: np.ndarray, tmp_path: Path) -> None:
    node = ("Gather", "x i", "y", {"axis": axis})
    check(proto([node], constants={"i": np.asarray(indices)}), tmp_path)


def test_by_what_was_computed(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("TopK", "x k", "values places", {"axis": 2}),
        ("GatherElements", "x places", "g", {"axis": 2}),
        ("ScatterElements", "x places zeros", "s", {"axis": 2}),
        ("Concat", "g s", "y", {"axis": 2}),
    ]
    x = rand(1, 4, 6, 8)
    constants = {"k": whole(3), "zeros": np.zeros((1, 4, 3, 8), np.float32)}
    check(proto(nodes, shape=(1, 4, 6, 8), constants=constants), tmp_path, x)


def test_gather_nd(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Transpose", "x", "t", {"perm": [1, 2, 3, 0]}),
        ("GatherND", "t i", "g"),
        ("Transpose", "g", "y", {"perm": [1, 0]}),
    ]
    constants = {"i": np.array([[0, 1, 2], [3, 5, -1]], np.int64)}
    check(proto(nodes, constants=constants), tmp_path)


def test_one_hot(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("ArgMax", "x", "i", {"axis": 1, "keepdims": 0}),
        ("OneHot", "i depth values", "y", {"axis": 1}),
    ]
    constants = {"depth": np.int64(4), "values": floats(0.5, 2)}
    check(proto(nodes, constants=constants), tmp_path)


def test_triangles(tmp_path: Path) -> None:
    for upper in (0, 1):
        check(
            proto([("Trilu", "x k", "y", {"upper": upper})], constants={"k": np.int64(1)}), tmp_path
        )
