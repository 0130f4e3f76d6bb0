"""ONNX Runtime on the CPU: its own files, and how they are loaded, run and counted in."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from subbyte.errors import SubbyteError
from subbyte.placement.placement import TargetHints
from subbyte.targets.description import About
from subbyte.targets.onnx.rewrites.batch_size import ask_first
from subbyte.targets.onnx.rewrites.bias_scales import multiply_bias_scales
from subbyte.targets.onnx.rewrites.circular_padding import slice_circular_padding
from subbyte.targets.onnx.rewrites.defaults import leave_out_defaults
from subbyte.targets.onnx.rewrites.float_weights import keep_float_weights
from subbyte.targets.onnx.rewrites.last_convolutions import write_last_convolutions
from subbyte.targets.onnx.rewrites.limits import merge_limits
from subbyte.targets.onnx.rewrites.output_name import rename_output
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.packing import pack
from subbyte.targets.onnx.rewrites.pairs import part_pairs
from subbyte.targets.onnx.rewrites.products import write_products_for_onnxruntime
from subbyte.targets.onnx.rewrites.quantized_softmax import keep_softmax
from subbyte.targets.onnx.rewrites.repeat_qdq import repeat_qdq
from subbyte.targets.onnx.rewrites.resizing import write_resizing
from subbyte.targets.onnx.rewrites.runtimes import only_for
from subbyte.targets.onnx.rewrites.short_names import shorten_names
from subbyte.targets.onnx.rewrites.split_linears import split_linears
from subbyte.targets.refusal import imported, refused

ABOUT = About("ONNX with Q/DQ, for ONNX Runtime on CPUs", extra="onnxruntime")
# It runs a convolution with an int8 kernel only if all that the convolution gives is quantized.
HINTS = TargetHints("onnxruntime", quantized_results=True)
REWRITES = (
    only_for("onnxruntime"),
    slice_circular_padding,
    write_resizing,
    merge_limits,
    keep_float_weights,
    split_linears,
    write_products_for_onnxruntime,
    repeat_qdq,
    write_last_convolutions,  # which then read a Q/DQ, or one that is repeated
    write_own_operators,
    part_pairs,
    keep_softmax,
    ask_first,
    pack,
    multiply_bias_scales,
    rename_output,
    leave_out_defaults,
    shorten_names,
)
PROFILED = 30  # runs of a profile
KERNEL = "_kernel_time"  # behind the name of a node in it
INTEGER_OPS = {
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}


@dataclass(frozen=True)
class OnnxRuntimeSession:
    """A loaded file.

    Attributes:
        session: ONNX Runtime's own.
        path: The file.
        threads: How many it runs on.
    """

    session: Any
    path: Path
    threads: int

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch."""
        names = [value.name for value in self.session.get_inputs()]
        try:
            outputs: list[np.ndarray] = self.session.run(
                None, dict(zip(names, inputs, strict=True))
            )
        except Exception as error:
            raise refused(self.path, inputs, error) from error
        return outputs

    def int8_ops(self) -> int:
        """How many convolutions and matrix products of the optimized graph have int8 kernels.

        Loads the file again, so that the optimized graph can be written and read.
        """
        ort = imported("onnxruntime")
        with tempfile.TemporaryDirectory() as folder:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            _session(ort, self.path, options)
            graph = onnx.load(options.optimized_model_filepath).graph
        return sum(node.op_type in INTEGER_OPS for node in graph.node)


def node_times(path: Path, threads: int, inputs: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Node → median time in milliseconds, by ONNX Runtime's own profile.

    Args:
        path: The file.
        threads: On how many it runs.
        inputs: One batch.
    """
    ort = imported("onnxruntime")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = OnnxRuntimeSession(_session(ort, path, options), path, threads)
        for _ in range(PROFILED):
            session.run(*inputs)
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            found.setdefault(event["name"].removesuffix(KERNEL), []).append(event["dur"] / 1000)
    return {name: median(times) for name, times in found.items()}


def load(path: Path, threads: int) -> OnnxRuntimeSession:
    """Load an ONNX file to run on `threads` threads.

    Raises:
        SubbyteError: ONNX Runtime is not installed, or cannot load the file.
    """
    ort = imported("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Otherwise products whose weights alone are quantized round their inputs to 8 bits as well.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Otherwise idle threads keep cores busy for 30 ms and more after a run, while others are timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return OnnxRuntimeSession(_session(ort, path, options), path, threads)


def version() -> str:
    """The runtime's version."""
    return str(imported("onnxruntime").__version__)


def _session(ort: Any, path: Path, options: Any) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise SubbyteError(f"ONNX Runtime cannot load {path}: {line}") from error
