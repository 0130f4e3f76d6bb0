from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_files import check, proto, rand


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [3, 2]},
    ],
)
def test_windows(operator: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    model = proto([(operator, "x", "y", attributes)], shape=("N", 4, 7, 8), opset=19)
    check(model, tmp_path, rand(3, 4, 7, 8))


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0]])
def test_padding_that_counts(pads: list[int], tmp_path: Path) -> None:
    attributes = {"kernel_shape": [3, 3], "pads": pads, "count_include_pad": 1}
    check(proto([("AveragePool", "x", "y", attributes)]), tmp_path)


def test_dilated_windows(tmp_path: Path) -> None:
    attributes = {"kernel_shape": [3, 3], "dilations": [2, 2]}
    check(proto([("MaxPool", "x", "y", attributes)]), tmp_path)


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("counted", [None, 0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1]])
def test_windows_that_begin_behind_the_image(
    pads: list[int], counted: int | None, side: int, tmp_path: Path
) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [side] * 2, "strides": [2, 2], "pads": pads}
    attributes |= {"ceil_mode": 1} | ({} if counted is None else {"count_include_pad": counted})
    operator = "MaxPool" if counted is None else "AveragePool"
    check(proto([(operator, "x", "y", attributes)]), tmp_path, reference=False)


def test_norms_of_windows_that_end_behind_the_image(tmp_path: Path) -> None:
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    # onnx.reference takes the mean of what is within, times the size of a whole window.
    check(proto([("LpPool", "x", "y", attributes)]), tmp_path, reference=False)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global(operator: str, tmp_path: Path) -> None:
    check(proto([(operator, "x", "y")], opset=17), tmp_path)
