"""Writing a model as ONNX files from one export: one for all runtimes, others where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from subbyte.graph.float_model import Regional
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import about, base
from subbyte.targets.onnx.files import output_names, read_metadata, save
from subbyte.targets.onnx.own_file import is_installed, is_worth_it
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
        notes: What files do not have, as sentences.
    """

    path: Path
    of_runtime: dict[str, Path] = field(default_factory=dict)
    raw: dict[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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
    path, files = folder / f"{NAME}.onnx", Files(folder / f"{NAME}.onnx")
    metadata = simulation.metadata
    raw = None if raw_folder is None or not program.raw else raw_folder / path.name
    _save(common, program.raw, path, raw, metadata)
    for name in runtimes:
        files.of_runtime[name] = path
        if raw is not None:
            files.raw[name] = raw
        own = _own_form(program, name, common)
        if own is None:
            continue
        own_path, own_raw = (p and p.with_suffix(f".{name}.onnx") for p in (path, raw))
        assert own_path is not None
        # Where both have the same quantizers the kernels are the same, and a run loads the file.
        keep = (
            _judge(simulation, own_path, name, lambda _: path)
            if _is_sparer(simulation, name)
            else _always
        )
        if _save(own, program.raw, own_path, own_raw, {**metadata, "target": name}, keep):
            files.of_runtime[name] = own_path
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
    program = program_of(simulation, example, postprocess)

    def save_common(path: Path, raw: Path | None) -> None:
        _save(program.form(base.rewrites(None)), program.raw, path, raw, metadata)

    def write_common(folder: Path) -> Path:
        save_common(folder / f"{NAME}.onnx", None)
        return folder / f"{NAME}.onnx"

    if target is not None:
        own, own_metadata = program.form(base.rewrites(target)), {**metadata, "target": target}
        keep = _judge(simulation, path, target, write_common)
        if _save(own, program.raw, path, raw, own_metadata, keep):
            return
    save_common(path, raw)


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


def _always(_: Path) -> bool:
    return True


def _judge(
    simulation: Simulation, path: Path, target: str, write_common: Callable[[Path], Path]
) -> Callable[[Path], bool]:
    """Whether a target's own file, given where it is meanwhile, is to appear at `path`."""
    if about(target).own_files or not is_installed(target):
        return _always
    layers = sum(layer.integer for layer in simulation.placement.layers)
    return lambda part: is_worth_it(part, path, target, layers, write_common)


def _is_sparer(simulation: Simulation, target: str) -> bool:
    """Whether a target's own file has fewer quantizers than the one for all."""
    return not all(tensor.stands_for(target) for tensor in simulation.placement.tensors)


def _save(
    form: ir.Model,
    raw_names: tuple[str, ...],
    path: Path,
    raw: Path | None,
    metadata: dict[str, Any],
    keep: Callable[[Path], bool] = _always,
) -> bool:
    """Write a form to `path` without its raw outputs, and the way to these to `raw`.

    Returns:
        Whether it is there: `keep` may have decided against it.
    """
    whole = form
    if raw_names:
        names = {str(output.name) for output in form.graph.outputs} - set(raw_names)
        whole = outputs_alone(form, names)
    kept = save(whole, path, metadata, keep)
    if kept and raw_names and raw is not None:
        save(outputs_alone(form, raw_names), raw, metadata)
    return kept
