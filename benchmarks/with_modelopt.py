"""ModelOpt's int8 file of a float ONNX file, by the images that benchmarks/forms.py has kept.

    python -m venv modelopt && modelopt/bin/pip install 'nvidia-modelopt[onnx]' onnxruntime
    modelopt/bin/python benchmarks/with_modelopt.py images.npz --out modelopt.onnx

It runs in an environment of its own, without Subbyte. The float model is float.onnx beside the
images. --method is ModelOpt's: entropy, its default, or max.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", choices=("entropy", "max"), default="entropy")
    options = parser.parse_args()
    from modelopt.onnx.quantization import quantize  # which takes a while

    quantize(
        str(options.images.with_name("float.onnx")),
        quantize_mode="int8",
        calibration_data=np.load(options.images)["calibration"],
        calibration_method=options.method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(options.out),
    )


if __name__ == "__main__":
    main()
