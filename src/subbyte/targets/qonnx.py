"""QONNX: ONNX with `Quant` nodes of any width, which FINN and hls4ml build hardware of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.graph.flow import WHOLE
from subbyte.placement.placement import Placement, TargetHints
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets.description import About
from subbyte.targets.onnx.files import save
from subbyte.targets.onnx.program import program_of
from subbyte.targets.onnx.rewrites.circular_padding import slice_circular_padding
from subbyte.targets.onnx.rewrites.fixed_batch import BATCH, fix_batch
from subbyte.targets.onnx.rewrites.output_name import rename_output
from subbyte.targets.onnx.rewrites.quant_nodes import write_quant_nodes
from subbyte.targets.onnx.rewrites.resizing import write_resizing
from subbyte.targets.onnx.symmetric import never_negative, with_symmetric
from subbyte.targets.refusal import imported, refused

ABOUT = About(
    "QONNX, whose Quant nodes have any width, for FINN and hls4ml",
    weights="2 to 8 bits, one scale for the tensor or one for each channel; zero points of 0",
    activations="2 to 8 bits, one scale for the tensor; unsigned or signed, zero points of 0",
    layers="all of them: it computes in floats, and leaves integers to what builds the hardware",
    detectors="the raw outputs",
    extra="qonnx",
    suffix=".qonnx.onnx",
    own_files=True,
)
HINTS = TargetHints("qonnx", quantized_results=True)
REWRITES = (
    slice_circular_padding,
    write_resizing,
    write_quant_nodes,
    fix_batch,
    rename_output,
)
RAW = "QONNX has no boxes and no non-maximum suppression: the file gives the raw outputs"


def fitted(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The same with symmetric weights, where the recipe leaves that open."""
    if recipe.symmetric_weights is not None or recipe.weights is None:
        return recipe, []
    return recipe.model_copy(update={"symmetric_weights": True}), []


def adjusted(float_model: FloatModel, placement: Placement) -> Placement:
    """The same with symmetric integers for activations that can be negative."""
    positive = never_negative(float_model, placement)
    return with_symmetric(
        placement,
        lambda t: t.role == "activation" and t.grid is None and t.key not in positive,
    )


def write(
    simulation: Simulation, path: Path, example: tuple[Any, ...], postprocess: bool
) -> list[str]:
    """Write a model for a batch of one image; of a detector its raw outputs, which is said.

    Args:
        simulation: The quantized model, or one without parameters: the float model.
        path: The file.
        example: A batch's arguments.
        postprocess: Whether a detector is asked for with its whole way to boxes.
    """
    program = program_of(simulation, example, False)
    save(program.form(REWRITES), path, simulation.metadata, shapes=True)
    return [RAW] if postprocess and simulation.region_names != WHOLE else []


@dataclass(frozen=True)
class QonnxSession:
    """A loaded file, which QONNX runs node by node.

    Attributes:
        model: QONNX's own.
        path: The file.
    """

    model: Any
    path: Path

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch, image by image."""
        from qonnx.core.onnx_exec import execute_onnx

        names = [value.name for value in self.model.graph.input]
        found: list[list[np.ndarray]] = []
        for i in range(len(inputs[0])):
            given = {name: x[i : i + BATCH] for name, x in zip(names, inputs, strict=True)}
            try:
                outputs = execute_onnx(self.model, given)
            except Exception as error:
                raise refused(self.path, inputs, error) from error
            found.append([outputs[value.name] for value in self.model.graph.output])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def int8_ops(self) -> int:
        """0: it computes in floats."""
        return 0


def load(path: Path, threads: int) -> QonnxSession:
    """Load a file; `threads` has no meaning here.

    Raises:
        SubbyteError: QONNX is not installed, or cannot load the file.
    """
    del threads
    imported("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper

    try:
        return QonnxSession(ModelWrapper(str(path)), path)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(f"QONNX cannot load {path}: {reason[:300]}") from error


def version() -> str:
    """QONNX's version; `SubbyteError` if it is not installed."""
    from importlib.metadata import version as installed

    imported("qonnx")
    return installed("qonnx")
