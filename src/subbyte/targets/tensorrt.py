"""TensorRT on NVIDIA GPUs: ONNX with explicit Q/DQ, and engines where TensorRT and a GPU are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.placement.placement import Placement, TargetHints
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets.description import About
from subbyte.targets.onnx.rewrites.circular_padding import slice_circular_padding
from subbyte.targets.onnx.rewrites.output_name import rename_output
from subbyte.targets.onnx.rewrites.repeat_qdq import repeat_signed_qdq
from subbyte.targets.onnx.rewrites.resizing import write_resizing
from subbyte.targets.onnx.rewrites.runtimes import only_for
from subbyte.targets.onnx.rewrites.signed_integers import write_signed_integers
from subbyte.targets.onnx.symmetric import with_symmetric

ABOUT = About(
    "ONNX with explicit Q/DQ, for TensorRT 11 on NVIDIA GPUs",
    weights="2 to 8 bits, held in int8 with zero points of 0",
    activations="2 to 8 bits, held in int8 with zero points of 0: of 8 bits symmetric",
    own_files=True,
)
# It computes a convolution, an activation and an addition in one kernel, whose result is float.
HINTS = TargetHints("tensorrt", quantized_results=False)
REWRITES = (
    only_for("tensorrt"),
    slice_circular_padding,
    write_resizing,
    repeat_signed_qdq,
    write_signed_integers,
    rename_output,
)
WIDEST = 8  # bits with which no zero point but 0 fits into int8
LEAST, USUAL, MOST = 1, 8, 64  # images of a batch, as an engine is built for them
INT8_LAYERS = ("conv", "gemm", "matmul", "matrixmultiply")


def fitted(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The same recipe, and what TensorRT has otherwise, as sentences.

    Raises:
        SubbyteError: A grid of 8 bits has a zero point.
    """
    for field, grids in (("outputs", recipe.outputs), ("inputs", recipe.inputs)):
        for pattern, grid in grids.items():
            if grid is not None and grid.bits == WIDEST and not grid.symmetric:
                raise SubbyteError(
                    f"{field}['{pattern}'] has 8 bits and a zero point, which TensorRT does not "
                    "take: give symmetric: true, or fewer bits"
                )
    notes = []
    if recipe.activations is not None and not (recipe.symmetric_activations or recipe.outputs):
        notes.append("activations of 8 bits are symmetric, as TensorRT takes them")
    if recipe.weights is not None and recipe.symmetric_weights is False:
        notes.append("weights of 8 bits are symmetric, as TensorRT takes them")
    return recipe, notes


def adjusted(float_model: FloatModel, placement: Placement) -> Placement:
    """The same with symmetric integers where there are 8 bits of them."""
    del float_model
    return with_symmetric(placement, lambda tensor: tensor.spec.bits == WIDEST)


def check(simulation: Simulation) -> None:
    """Refuse a model of which a tensor of 8 bits has a zero point."""
    for tensor, quantizer in simulation.quantizers():
        plain = tensor.spec.bits < WIDEST or tensor.spec.symmetric
        if quantizer.has_params and not plain and tensor.stands_for("tensorrt"):
            what = "the weight" if tensor.role == "weight" else "an input or a result"
            raise SubbyteError(
                f"{what} of '{tensor.layer}' has 8 bits and a zero point, which TensorRT does not "
                "take: quantize with target: tensorrt in the recipe"
            )


def notes(path: Path) -> tuple[str, ...]:
    """How an engine is built of a file, for batches of any size up to `MOST`."""
    graph = onnx.load(str(path), load_external_data=False).graph
    options = [
        f"--{name}Shapes=" + ",".join(_shaped(value, batch) for value in graph.input)
        for name, batch in (("min", LEAST), ("opt", USUAL), ("max", MOST))
    ]
    return (f"an engine is built by: trtexec --onnx={path.name} {' '.join(options)}",)


def here() -> tuple[bool, str | None]:
    """Whether engines run on this machine, and why not."""
    try:
        version()
    except SubbyteError as error:
        return False, f"{error}; ONNX Runtime computes the same values from its files"
    return True, None


@dataclass(frozen=True)
class TensorRTSession:
    """An engine.

    Attributes:
        engine: TensorRT's own.
        path: The file that it was built of.
        outputs: The names of its outputs.
    """

    engine: Any
    path: Path
    outputs: tuple[str, ...]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch, which is taken in parts if it is larger than the engine's."""
        parts = [self._run(*part) for part in _parts(inputs)]
        return [np.concatenate(found) for found in zip(*parts, strict=True)]

    def _run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        context = self.engine.create_execution_context()
        names = [name for name in _names(self.engine) if name not in self.outputs]
        held = [torch.from_numpy(np.ascontiguousarray(value)).cuda() for value in inputs]
        for name, value in zip(names, held, strict=True):
            context.set_input_shape(name, tuple(value.shape))
            context.set_tensor_address(name, value.data_ptr())
        results = []
        for name in self.outputs:
            shape, kind = tuple(context.get_tensor_shape(name)), self.engine.get_tensor_dtype(name)
            dtype = torch.int64 if "INT64" in str(kind) else torch.float32
            results.append(torch.empty(shape, dtype=dtype, device="cuda"))
            context.set_tensor_address(name, results[-1].data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            shapes = ", ".join(str(value.shape) for value in inputs)
            raise SubbyteError(f"{self.path} does not run on an input of shape {shapes}")
        stream.synchronize()
        return [result.cpu().numpy() for result in results]

    def int8_ops(self) -> int:
        """How many convolutions and matrix products of the engine read int8."""
        trt = _tensorrt()
        inspector = self.engine.create_engine_inspector()
        told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return sum(_reads_int8(layer) for layer in json.loads(told)["Layers"])


def load(path: Path, threads: int) -> TensorRTSession:
    """Build an engine of a file, which takes up to minutes; `threads` has no meaning here.

    Raises:
        SubbyteError: TensorRT or a GPU is missing, or TensorRT cannot read the file.
    """
    del threads
    trt = _tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # TensorRT 11 has strongly typed networks alone, and no flag for them.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        reason = parser.get_error(0).desc() if parser.num_errors else "it gives no reason"
        raise SubbyteError(f"TensorRT cannot load {path}: {reason}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for i in range(network.num_inputs):
        value = network.get_input(i)
        rest = tuple(value.shape)[1:]
        profile.set_shape(value.name, (LEAST, *rest), (USUAL, *rest), (MOST, *rest))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SubbyteError(f"TensorRT cannot build an engine of {path}")
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    outputs = tuple(network.get_output(i).name for i in range(network.num_outputs))
    return TensorRTSession(engine, path, outputs)


def version() -> str:
    """TensorRT's version; `SubbyteError` if it is not installed, or there is no GPU."""
    return str(_tensorrt().__version__)


def _tensorrt() -> Any:
    try:
        trt = import_module("tensorrt")
    except ImportError:
        raise SubbyteError("the runtime tensorrt is not installed: pip install tensorrt") from None
    if not torch.cuda.is_available():
        raise SubbyteError("tensorrt needs an NVIDIA GPU, and PyTorch finds none here")
    return trt


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def _parts(inputs: tuple[np.ndarray, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    for first in range(0, len(inputs[0]), MOST):
        yield tuple(value[first : first + MOST] for value in inputs)


def _reads_int8(layer: Any) -> bool:
    """Whether a layer, as the engine's inspector tells of it, is one that computes with int8."""
    if not isinstance(layer, dict):
        return False
    kind = f"{layer.get('LayerType', '')} {layer.get('Name', '')}".lower()
    formats = [str(value.get("Format/Datatype", "")) for value in layer.get("Inputs", ())]
    return any(name in kind for name in INT8_LAYERS) and any("Int8" in f for f in formats)


def _shaped(value: onnx.ValueInfoProto, batch: int) -> str:
    """An input's shape at one batch size, as trtexec reads it."""
    lengths = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    return f"{value.name}:" + "x".join(map(str, [batch, *lengths]))
