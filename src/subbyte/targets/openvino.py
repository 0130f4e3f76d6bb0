"""OpenVINO on the CPU: its own files, and how they are loaded, run and counted in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from subbyte.errors import SubbyteError
from subbyte.placement.placement import TargetHints
from subbyte.targets.description import About
from subbyte.targets.onnx.rewrites.batch_size import ask_first
from subbyte.targets.onnx.rewrites.bias_scales import multiply_bias_scales
from subbyte.targets.onnx.rewrites.circular_padding import slice_circular_padding
from subbyte.targets.onnx.rewrites.defaults import leave_out_defaults
from subbyte.targets.onnx.rewrites.extremes import keep_extremes
from subbyte.targets.onnx.rewrites.float_weights import keep_float_weights
from subbyte.targets.onnx.rewrites.limits import merge_limits
from subbyte.targets.onnx.rewrites.output_name import rename_output
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.packing import pack
from subbyte.targets.onnx.rewrites.padded_pooling import pad_integers
from subbyte.targets.onnx.rewrites.padded_strides import keep_strides
from subbyte.targets.onnx.rewrites.products import write_products_for_openvino
from subbyte.targets.onnx.rewrites.resizing import write_resizing
from subbyte.targets.onnx.rewrites.runtimes import only_for
from subbyte.targets.onnx.rewrites.second_readers import part_readers
from subbyte.targets.onnx.rewrites.shared_weights import copy_shared_weights
from subbyte.targets.onnx.rewrites.short_names import shorten_names
from subbyte.targets.onnx.rewrites.split_linears import split_linears
from subbyte.targets.onnx.rewrites.styles import style_for_openvino
from subbyte.targets.onnx.rewrites.turned_images import keep_turned_images
from subbyte.targets.refusal import imported, refused, unconverted

ABOUT = About("ONNX with Q/DQ, for OpenVINO on CPUs", extra="openvino")
# It computes a convolution and what reads it in one kernel, in float: there a Q/DQ costs accuracy.
HINTS = TargetHints("openvino", quantized_results=False)
REWRITES = (
    only_for("openvino"),
    copy_shared_weights,
    slice_circular_padding,
    write_resizing,
    merge_limits,
    style_for_openvino,
    keep_float_weights,
    split_linears,
    write_products_for_openvino,
    write_own_operators,
    part_readers,
    keep_extremes,
    pad_integers,
    keep_strides,
    keep_turned_images,
    ask_first,
    pack,
    multiply_bias_scales,
    rename_output,
    leave_out_defaults,
    shorten_names,
)
PROFILED = 30  # runs of a profile
LAYERS = {"Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Gemm", "Deconvolution"}
ATTENTION = "Subgraph"  # a kernel of several operators, as of both products of attention


@dataclass(frozen=True)
class OpenVinoSession:
    """A loaded file.

    Attributes:
        compiled: OpenVINO's compiled model.
        path: The file.
        threads: How many it runs on.
    """

    compiled: Any
    path: Path
    threads: int

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch."""
        try:
            result = self.compiled(list(inputs))
        except Exception as error:
            raise refused(self.path, inputs, error) from error
        return [np.array(result[port]) for port in self.compiled.outputs]

    def int8_ops(self) -> int:
        """How many convolutions and matrix products of the compiled graph have int8 kernels."""
        products, count = _products(self.path), 0
        for node in self.compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = info["layerType"].astype(str) if "layerType" in info else ""
            precision = info["runtimePrecision"].astype(str) if "runtimePrecision" in info else ""
            # Quantized weights alone give a layer the precision i8 too: its input must be integers.
            if precision in ("i8", "u8") and kind in LAYERS:
                count += _is_integer(node.input(0))
            elif precision in ("i8", "u8") and kind == ATTENTION:
                names = set(info["originalLayersNames"].astype(str).split(","))
                found = len(names & products)
                # A row of products has one factor more than products; a mask between them is float.
                count += found * (sum(map(_is_integer, node.inputs())) > found)
        return count


def node_times(path: Path, threads: int, inputs: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Node → median time in milliseconds, by OpenVINO's own counters.

    Args:
        path: The file.
        threads: On how many it runs.
        inputs: One batch.
    """
    compiled = _compile(path, threads, PERF_COUNT=True)
    request = compiled.create_infer_request()
    found: dict[str, list[float]] = {}
    for _ in range(PROFILED):
        request.infer(list(inputs))
        for info in request.profiling_info:
            found.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1000)
    return {name: median(times) for name, times in found.items()}


def load(path: Path, threads: int) -> OpenVinoSession:
    """Load an ONNX file to run on `threads` threads.

    Raises:
        SubbyteError: OpenVINO is not installed, or cannot load the file.
    """
    return OpenVinoSession(_compile(path, threads), path, threads)


def version() -> str:
    """The runtime's version."""
    return str(imported("openvino").__version__)


def _compile(path: Path, threads: int, **more: Any) -> Any:
    openvino = imported("openvino")
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # On processors with AMX the default is bfloat16, which computes what is left in float
        # with 8 bits of mantissa.
        "INFERENCE_PRECISION_HINT": "f32",
        # Otherwise the inputs of linear layers whose weights alone are quantized are so as well.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        **more,
    }
    try:
        return core.compile_model(core.read_model(str(path)), "CPU", settings)
    except Exception as error:
        raise SubbyteError(f"OpenVINO cannot load {path}: {_reason(error)}") from error


def _products(path: Path) -> set[str]:
    """Names of the file's matrix products."""
    nodes = imported("openvino").Core().read_model(str(path)).get_ops()
    return {node.get_friendly_name() for node in nodes if node.get_type_name() == "MatMul"}


def _is_integer(port: Any) -> bool:
    return port.get_element_type().to_string() in ("u8", "i8", "uint8_t", "int8_t")


def _reason(error: Exception) -> str:
    """What went wrong, without the places in OpenVINO's own source that come before it."""
    operators = unconverted(str(error))
    if operators:
        return operators
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and ".cpp:" not in line and ".hpp:" not in line]
    return reasons[0] if reasons else "it gives no reason"
