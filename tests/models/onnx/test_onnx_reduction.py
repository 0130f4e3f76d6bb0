from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_files import check, proto, whole

REDUCTIONS = ["Max", "Mean", "Min", "Prod", "Sum", "SumSquare", "L1", "L2", "LogSumExp"]


@pytest.mark.parametrize("operator", REDUCTIONS)
@pytest.mark.parametrize(("axes", "keep"), [((2, 3), 1), ((-1,), 0), ((1,), 1)])
def test_axes(operator: str, axes: tuple[int, ...], keep: int, tmp_path: Path) -> None:
    name = f"Reduce{operator}"
    new = proto([(name, "x axes", "y", {"keepdims": keep})], constants={"axes": whole(*axes)})
    check(new, tmp_path)
    check(proto([(name, "x", "y", {"axes": list(axes), "keepdims": keep})], opset=11), tmp_path)


@pytest.mark.parametrize("operator", REDUCTIONS)
def test_no_axes_are_all_axes_or_none(operator: str, tmp_path: Path) -> None:
    node = (f"Reduce{operator}", "x", "y", {"noop_with_empty_axes": 1})
    check(proto([node]), tmp_path)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_places_of_extremes(operator: str, last: int, tmp_path: Path) -> None:
    node = (operator, "x", "y", {"axis": 1, "keepdims": 0, "select_last_index": last})
    check(proto([node]), tmp_path)
    check(proto([("Round", "x", "r"), (operator, "r", "y", node[3])]), tmp_path)


def test_sums_up_to_each(tmp_path: Path) -> None:
    for attributes in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        node = ("CumSum", "x axis", "y", attributes)
        check(proto([node], constants={"axis": np.int64(2)}), tmp_path)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest: int, tmp_path: Path) -> None:
    node = ("TopK", "x k", "values places", {"axis": 1, "largest": largest})
    model = proto([node], constants={"k": whole(3)}, outputs=("values", "places"))
    check(model, tmp_path)


def test_top_k_of_old_files(tmp_path: Path) -> None:
    node = ("TopK", "x", "values places", {"k": 3})
    check(proto([node], outputs=("values", "places"), opset=9), tmp_path)
