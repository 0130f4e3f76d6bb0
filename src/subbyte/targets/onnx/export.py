"""Writing a model as ONNX files from one export: one for all runtimes, others where they differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from subbyte.graph.float_model import Regional
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import base
from subbyte.targets.onnx.files import output_names, read_metadata, save
from subbyte.targets.onnx.program import Program, deployed_as, outputs_alone, program_of, quiet
from subbyte.targets.onnx.same import are_same

__all__ = [
    "Files",
    "arguments",
    "export",
    "export_float",
    "output_names",
    "quiet",
    "read_metadata",
    "write_files",
]

NAME = "model"


@dataclass(frozen=True)
class Files:
    """What was written of a model.

    Attributes:
        path: The file for all runtimes.
        of_runtime: Runtime → the file that it runs: that one, or its own.
        raw: Runtime → likewise, of a detector's network without post-processing; empty where there
            is none.
    """

    path: Path
    of_runtime: dict[str, Path] = field(default_factory=dict)
    raw: dict[str, Path] = field(default_factory=dict)


def write_files(
    simulation: Simulation,
    folder: Path,
    example: tuple[Any, ...],
    runtimes: Iterable[str],
    *,
    postprocess: bool = True,
    raw_folder: Path | None = None,
) -> Files:
    """Write all files of a model into `folder`: `model.onnx`, and perhaps `model.RUNTIME.onnx`.

    A runtime has a file of its own where its graph has other nodes or constants than the one for
    all.

    Args:
        simulation: The quantized model, which stays as it is.
        folder: Where files are written.
        example: A batch's arguments; any batch size runs.
        runtimes: Names of the runtimes that the files are for.
        postprocess: Whether a detector is written with the whole way from images to boxes.
        raw_folder: Where a one-stage detector's files up to its raw outputs are written, by the
            same names, if it has post-processing; `None`: they are not.

    Raises:
        SubbyteError: The graph has an operator that ONNX lacks, or a file cannot be written.
    """
    program = program_of(simulation, example, postprocess)
    common = program.form(base.rewrites(None))
    path, metadata = folder / f"{NAME}.onnx", simulation.metadata
    files = Files(path)
    raw = None if raw_folder is None or not program.raw else raw_folder / path.name
    _save(common, program.raw, path, raw, metadata)
    for name in runtimes:
        files.of_runtime[name] = path
        if raw is not None:
            files.raw[name] = raw
        own = _own_form(program, name, common)
        if own is not None:
            files.of_runtime[name] = path.with_suffix(f".{name}.onnx")
            own_raw = None if raw is None else raw.with_suffix(f".{name}.onnx")
            _save(own, program.raw, files.of_runtime[name], own_raw, {**metadata, "target": name})
            if own_raw is not None:
                files.raw[name] = own_raw
    return files


def export(
    simulation: Simulation,
    path: Path,
    example: tuple[Any, ...],
    target: str | None = None,
    postprocess: bool = True,
    raw: Path | None = None,
) -> None:
    """Write the quantized model to `path`.

    Args:
        simulation: The quantized model, which stays as it is.
        path: Of the file.
        example: A batch's arguments; any batch size runs.
        target: The runtime that the file is for; `None` makes one for all.
        postprocess: Whether a detector is written with the whole way from images to boxes, and
            not its raw outputs.
        raw: Where the same up to the raw outputs is written, if `postprocess` and the detector has
            one stage.

    Raises:
        SubbyteError: The graph has an operator that ONNX lacks, or `path` cannot be written.
    """
    metadata = simulation.metadata
    metadata = metadata if target is None else {**metadata, "target": target}
    program = program_of(simulation, example, postprocess)
    _save(program.form(base.rewrites(target)), program.raw, path, raw, metadata)


def export_float(
    simulation: Simulation,
    path: Path,
    example: tuple[Any, ...],
    postprocess: bool = True,
    raw: Path | None = None,
) -> None:
    """Write the model before quantization: the same graph, all of it in float32.

    Args:
        simulation: Of the model; its parameters are left out.
        path: Of the file.
        example: A batch's arguments; any batch size runs.
        postprocess: Whether a detector is written with the whole way from images to boxes.
        raw: Where the same up to the raw outputs is written, if `postprocess` and the detector has
            one stage.
    """
    program = program_of(_in_float(simulation), example, postprocess)
    _save(program.form(base.rewrites(None)), program.raw, path, raw, simulation.metadata)


def arguments(
    model: Regional, example: tuple[Any, ...], postprocess: bool = True
) -> tuple[torch.Tensor, ...]:
    """What a file of the model is run with for the images of `example`.

    These themselves, but for raw outputs of a detector whose file begins at its regions.

    Args:
        model: The captured model.
        example: A batch's arguments.
        postprocess: Whether the file has a detector's whole way from images to boxes.

    Raises:
        SubbyteError: The whole way cannot be written for this kind of model.
    """
    return deployed_as(model, model.model, example, postprocess).args


def _in_float(simulation: Simulation) -> Simulation:
    """The same model without any parameters of quantization."""
    return simulate(simulation.float_model, simulation.placement, QuantParams())


def _own_form(program: Program, runtime: str, common: ir.Model) -> ir.Model | None:
    """A runtime's form of a model; `None`: it is the one for all."""
    rewrites = base.rewrites(runtime)
    if rewrites is base.rewrites(None):
        return None
    form = program.form(rewrites)
    return None if are_same(common, form) else form


def _save(
    form: ir.Model,
    raw_names: tuple[str, ...],
    path: Path,
    raw: Path | None,
    metadata: dict[str, Any],
) -> None:
    """Write a form to `path` without its raw outputs, and the way to these to `raw`."""
    if raw_names:
        if raw is not None:
            save(outputs_alone(form, raw_names), raw, metadata)
        names = {str(output.name) for output in form.graph.outputs} - set(raw_names)
        form = outputs_alone(form, names)
    save(form, path, metadata)
