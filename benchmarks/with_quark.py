"""AMD Quark's int8 file of a float ONNX file, by images that benchmarks/peers.py has kept.

    uv venv quark && uv pip install --python quark/bin/python amd-quark torch onnxruntime
    quark/bin/python benchmarks/with_quark.py float.onnx images.npy int8.onnx

It runs in an environment of its own, without Subbyte, because Quark 0.13 needs an older onnx. Its
configuration is A8W8, int8 for activations and weights. `benchmarks/peers.py --quark PYTHON` calls
it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer, QConfig


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Images one by one."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.name, self.images, self.left = name, images, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image, or `None` at the end."""
        image = next(self.left, None)
        return None if image is None else {self.name: image[None]}

    def rewind(self) -> None:
        """Begin anew."""
        self.left = iter(self.images)


def main(source: Path, images: Path, out: Path) -> None:
    """Quantize a file."""
    name = onnx.load(str(source), load_external_data=False).graph.input[0].name
    config: Any = QConfig.get_default_config("A8W8")
    reader = Images(name, np.load(images))
    ModelQuantizer(config).quantize_model(str(source), str(out), reader)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
