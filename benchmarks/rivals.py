"""The int8 models of two other tools, made from our float ONNX file, for benchmarks/latency.py."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

from subbyte.targets.onnx.export import quiet

ORT, NNCF, TRANSFORMER = "quantize_static", "nncf", "nncf transformer"
NAMES = (ORT, NNCF, TRANSFORMER)
PER_CHANNEL = 13  # the first opset whose DequantizeLinear has an axis


def check() -> None:
    """End the program with one sentence where a tool is missing."""
    missing = [name for name in ("onnxruntime", "nncf") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"{' and '.join(missing)} cannot be imported: uv run --group benchmarks python "
            f"{' '.join(sys.argv)}"
        )


def write(folder: Path, path: Path, images: list[np.ndarray], transformer: bool) -> dict[str, Path]:
    """Quantize the float file `path` with each tool, calibrated on `images`; name → file.

    `transformer`: with NNCF's settings for transformers as well.
    """
    files = {ORT: folder / "quantize_static.onnx"}
    with silent():
        quantize_static(path, files[ORT], images, transformer)
        for name in (NNCF, TRANSFORMER) if transformer else (NNCF,):
            files[name] = folder / f"{name.replace(' ', '_')}.onnx"
            nncf(path, files[name], images, name == TRANSFORMER)
    return files


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the tools' remarks."""
    with quiet("", "nncf"), contextlib.redirect_stdout(io.StringIO()):
        yield


def quantize_static(
    path: Path, out: Path, images: list[np.ndarray], transformer: bool = False
) -> None:
    """As ONNX Runtime's documentation advises for CPUs with VNNI: u8 activations, s8 weights.

    Its symbolic shape inference, which it advises for transformers, fails on SSD's normalization.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
    )
    from onnxruntime.quantization import (
        quantize_static as quantize,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left, self.name = iter(images), _input(path)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {self.name: image}

    ready = out.with_suffix(".ready.onnx")
    quant_pre_process(_new_enough(path, ready), ready, skip_symbolic_shape=not transformer)
    quantize(
        ready,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def nncf(
    path: Path,
    out: Path,
    images: list[np.ndarray],
    transformer: bool = False,
    mixed: bool = False,
) -> None:
    """By `nncf.quantize` with its defaults, or its settings for transformers.

    Args:
        path: The float file; one of an old opset is brought to one that has scales by channel.
        out: The file to write.
        images: Of the calibration.
        transformer: With its settings for transformers.
        mixed: With asymmetric activations, as it advises for networks that are not of ReLUs.
    """
    import nncf as tool

    settings: dict[str, Any] = {"model_type": tool.ModelType.TRANSFORMER} if transformer else {}
    if mixed:
        settings["preset"] = tool.QuantizationPreset.MIXED
    path = _new_enough(path, out)
    data = tool.Dataset([{_input(path): image} for image in images])
    model = tool.quantize(onnx.load(str(path)), data, **settings)
    # Its int8 activations in front of a Reshape make ONNX Runtime 1.32 fail at opset 21, when it
    # moves a quantization past it; the file's operators mean the same at 20.
    model.opset_import[0].version = min(20, model.opset_import[0].version)
    onnx.save(model, str(out))


def quark(path: Path, out: Path, images: list[np.ndarray], *, python: Path) -> None:
    """By AMD Quark's A8W8, in an environment of its own.

    Args:
        path: The float file; one of an old opset is brought to one that has scales by channel.
        out: The file to write.
        images: Of the calibration.
        python: The interpreter of that environment.
    """
    kept = out.with_suffix(".npy")
    np.save(kept, np.concatenate(images))
    script = Path(__file__).with_name("with_quark.py")
    given = (python, script, _new_enough(path, out), kept, "--out", out)
    command = [str(x.absolute() if isinstance(x, Path) else x) for x in given]
    # Quark writes what it has quantized, as quantized_info.csv, into the current folder.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=out.parent)


def _new_enough(path: Path, out: Path) -> Path:
    """A file at opset 13 at least, from which on ONNX has scales for each channel."""
    model = onnx.load(str(path))
    if model.opset_import[0].version >= PER_CHANNEL:
        return path
    newer = onnx.version_converter.convert_version(model, PER_CHANNEL)
    for node in newer.graph.node:
        if node.op_type == "Resize" and len(node.input) == 4:
            node.input[2] = ""  # scales, which opset 11 has empty beside sizes
    onnx.save(newer, str(out.with_suffix(".newer.onnx")))
    return out.with_suffix(".newer.onnx")


def _input(path: Path) -> str:
    """The name of a file's input."""
    return str(onnx.load(str(path), load_external_data=False).graph.input[0].name)
