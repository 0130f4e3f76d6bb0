from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_files import Node, check, floats, proto, rand, whole
from subbyte.errors import SubbyteError

MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
EMPTY = np.zeros(0, np.float32)


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [(12, 16), (9, 13), (3, 5)])
def test_sizes(how: str, mode: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    attributes = {"mode": mode, "coordinate_transformation_mode": how}
    nodes: list[Node] = [
        ("Shape", "x", "s", {"end": 2}),
        ("Concat", "s hw", "shape", {"axis": 0}),
        ("Resize", "x roi _ shape", "y", attributes),
    ]
    check(proto(nodes, constants={"hw": whole(*sizes), "roi": EMPTY}, opset=15), tmp_path)


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("scale", [2.0, 0.5, 1.5])
def test_nearest(how: str, rounding: str, scale: float, tmp_path: Path) -> None:
    attributes = {
        "mode": "nearest",
        "coordinate_transformation_mode": how,
        "nearest_mode": rounding,
    }
    node = ("Resize", "x roi scales", "y", attributes)
    constants = {"roi": EMPTY, "scales": floats(1, 1, scale, scale)}
    check(proto([node], constants=constants, opset=13), tmp_path)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_files(mode: str, tmp_path: Path) -> None:
    scales = {"scales": floats(1, 1, 2, 2)}
    node: Node = ("Upsample", "x scales", "y", {"mode": mode})
    check(proto([node], constants=scales, opset=9), tmp_path)
    check(
        proto([("Resize", "x scales", "y", {"mode": mode})], constants=scales, opset=10), tmp_path
    )


def test_chosen_axes(tmp_path: Path) -> None:
    attributes = {"mode": "linear", "axes": [2, 3]}
    node = ("Resize", "x _ scales", "y", attributes)
    check(proto([node], constants={"scales": floats(2, 1.5)}, opset=18), tmp_path)


@pytest.mark.parametrize("scale", [0.6, 0.25, 1.5])
@pytest.mark.parametrize("outside", [0, 1])
@pytest.mark.parametrize(
    "attributes", [{"mode": "linear"}, {"mode": "cubic"}, {"mode": "cubic", "cubic_coeff_a": -0.5}]
)
def test_antialias(attributes: dict[str, Any], outside: int, scale: float, tmp_path: Path) -> None:
    attributes = {**attributes, "antialias": 1, "exclude_outside": outside}
    node: Node = ("Resize", "x _ scales", "y", attributes)
    constants = {"scales": floats(1, 1, scale, scale)}
    model = proto([node], ("N", 4, 10, 10), constants=constants, opset=18)
    check(model, tmp_path, rand(3, 4, 10, 10))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(("scale", "side"), [(0.7, 7), (1.4, 14)])
def test_lengths_are_rounded_in_float32(scale: float, side: int, mode: str, tmp_path: Path) -> None:
    node: Node = ("Resize", "x _ scales", "y", {"mode": mode})
    constants = {"scales": floats(1, 1, scale, scale)}
    model = proto([node], ("N", 4, 10, 10), constants=constants, opset=18)
    # onnx.reference multiplies in float64, by the value of float32: 10 · 0.69999999 is 6.
    (found,) = check(model, tmp_path, rand(3, 4, 10, 10), reference=False)
    assert found.shape[2:] == (side, side)


def test_cropping_is_refused(tmp_path: Path) -> None:
    attributes = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
    constants = {"roi": floats(0, 0, 0, 0, 1, 1, 1, 1), "scales": floats(1, 1, 2, 2)}
    model = proto([("Resize", "x roi scales", "y", attributes)], constants=constants, opset=13)
    with pytest.raises(SubbyteError, match=r"'y' \(Resize\).*crops"):
        check(model, tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"mode": "nearest", "padding_mode": "border"},
        {"mode": "linear", "align_corners": 1},
        {"mode": "cubic", "padding_mode": "reflection"},
    ],
)
def test_grid_sample(attributes: dict[str, Any], tmp_path: Path) -> None:
    grid = np.clip(rand(1, 5, 7, 2), -1.2, 1.2)
    nodes: list[Node] = [
        ("Shape", "x", "n", {"end": 1}),
        ("Concat", "n rest", "shape", {"axis": 0}),
        ("Expand", "grid shape", "g"),
        ("GridSample", "x g", "y", attributes),
    ]
    check(proto(nodes, constants={"grid": grid, "rest": whole(5, 7, 2)}), tmp_path)
