"""OpenVINO on the CPU: load, run, count what really runs on integers, measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.errors import SubbyteError

EXTRA = "openvino"
LAYERS = {"Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Gemm", "Deconvolution"}


@dataclass(frozen=True)
class Session:
    """A loaded model."""

    compiled: Any
    path: Path
    threads: int

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch."""
        result = self.compiled(list(inputs))
        return [np.array(result[port]) for port in self.compiled.outputs]


def load(path: Path, threads: int) -> Session:
    """Load an ONNX file to run on `threads` threads.

    Raises:
        SubbyteError: OpenVINO is not installed, or cannot load the file.
    """
    return Session(_compile(path, threads), path, threads)


def int8_ops(path: Path) -> int:
    """How many convolutions and matrix products run on integers, in the graph it compiled."""
    count = 0
    for node in _compile(path, 1).get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind = info["layerType"].astype(str) if "layerType" in info else ""
        precision = info["runtimePrecision"].astype(str) if "runtimePrecision" in info else ""
        count += kind in LAYERS and precision in ("i8", "u8")
    return count


def version() -> str:
    """The runtime's version."""
    return str(_module().__version__)


def _compile(path: Path, threads: int) -> Any:
    openvino = _module()
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # On processors with AMX the default is bfloat16, which computes what is left in float
        # with 8 bits of mantissa.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        return core.compile_model(core.read_model(str(path)), "CPU", settings)
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise SubbyteError(f"OpenVINO cannot load {path}: {line}") from error


def _module() -> Any:
    try:
        import openvino
    except ImportError:
        raise SubbyteError(
            "the runtime openvino is not installed: pip install 'subbyte[openvino]'"
        ) from None
    return openvino
