"""AMD Quark's int8 file of a float ONNX file, by images that benchmarks/peers.py has kept.

    uv venv quark && uv pip install --python quark/bin/python amd-quark torch onnxruntime
    quark/bin/python benchmarks/with_quark.py float.onnx images.npy --out int8.onnx

It runs in an environment of its own, without Subbyte, because Quark 0.13 needs an older onnx. Its
configuration is A8W8 by default, int8 for activations and weights. `benchmarks/peers.py --quark`
calls it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader


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


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the float file")
    parser.add_argument("images", type=Path, help="a .npy of the calibration images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="A8W8", help="a name of Quark's")
    options = parser.parse_args()
    from quark.onnx import ModelQuantizer, QConfig  # which takes a while

    name = onnx.load(str(options.source), load_external_data=False).graph.input[0].name
    reader = Images(name, np.load(options.images))
    quantizer = ModelQuantizer(QConfig.get_default_config(options.config))
    quantizer.quantize_model(str(options.source), str(options.out), reader)


if __name__ == "__main__":
    main()
