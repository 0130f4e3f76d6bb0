from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_files import check, proto, rand


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 1, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [3, 2]},
        {"auto_pad": "VALID", "dilations": [2, 2]},
        {"group": 2, "pads": [1, 1, 1, 1]},
    ],
)
def test_convolutions(attributes: dict[str, Any], tmp_path: Path) -> None:
    weight = rand(6, 4 // attributes.get("group", 1), 3, 3)
    model = proto([("Conv", "x w b", "y", attributes)], constants={"w": weight, "b": rand(6)})
    check(model, tmp_path)


def test_a_convolution_in_one_dimension(tmp_path: Path) -> None:
    node = ("Conv", "x w", "y", {"auto_pad": "SAME_UPPER"})
    model = proto([node], shape=("N", 4, 9), constants={"w": rand(6, 4, 2)})
    check(model, tmp_path, rand(3, 4, 9))


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 1, 1]},
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "pads": [2, 2, 0, 0], "output_padding": [1, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 3], "output_shape": [12, 24]},
        {"group": 2, "dilations": [2, 1]},
    ],
)
def test_transposed_convolutions(attributes: dict[str, Any], tmp_path: Path) -> None:
    weight = rand(4, 6 // attributes.get("group", 1), 3, 3)
    model = proto(
        [("ConvTranspose", "x w b", "y", attributes)], constants={"w": weight, "b": rand(6)}
    )
    # onnx.reference takes neither groups with dilations, nor an output's shape.
    known = not {"group", "output_shape"} & set(attributes)
    check(model, tmp_path, reference=known)


def test_a_weight_that_is_computed(tmp_path: Path) -> None:
    nodes = [("GlobalAveragePool", "x", "p"), ("Mul", "w s", "v"), ("Conv", "p v", "y")]
    constants = {"w": rand(6, 4, 1, 1), "s": np.float32([0.5])}
    check(proto(nodes, constants=constants), tmp_path)
