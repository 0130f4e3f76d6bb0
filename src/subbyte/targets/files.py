"""Files of all targets: which one writes and reads a file, and what stands in it.

Most targets read ONNX. One that makes files of its own has a function `write`; where these are not
ONNX, also `read_metadata(path)` and `output_names(path)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from subbyte import targets
from subbyte.errors import SubbyteError, unknown
from subbyte.graph.float_model import Regional
from subbyte.graph.flow import WHOLE
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets.onnx import export as onnx
from subbyte.targets.onnx.export import NAME, Files, arguments

__all__ = [
    "Files",
    "Writer",
    "arguments",
    "check_boxes",
    "check_reads",
    "export",
    "export_float",
    "file_in",
    "output_names",
    "read_metadata",
    "runtime_of",
    "write_files",
]


ONNX = ".onnx"


class Writer(Protocol):
    """A target's function `write`."""

    def __call__(
        self, simulation: Simulation, path: Path, example: tuple[Any, ...], postprocess: bool
    ) -> Sequence[str]:
        """Write a model, and return as sentences what the file does not have.

        The file holds the simulation's metadata, with `target`. A tensor without parameters is in
        float, so that a model without any is the float model.

        Args:
            simulation: The quantized model, which stays as it is.
            path: The file, which appears whole or not at all.
            example: A batch's arguments.
            postprocess: Whether a detector is asked for with its whole way to boxes.
        """
        ...


def export(
    simulation: Simulation,
    path: Path,
    example: tuple[Any, ...],
    target: str | None = None,
    postprocess: bool = True,
) -> tuple[str, ...]:
    """Write the quantized model to `path`; return what the file does not have, as sentences.

    Args:
        simulation: The quantized model, which stays as it is.
        path: Of the file.
        example: A batch's arguments.
        target: What the file is for; `None`: what the model was quantized for.
        postprocess: Whether a detector is written with the whole way from images to boxes.

    Raises:
        SubbyteError: There is no such target, it cannot represent the model, or `path` cannot be
            written.
    """
    target = simulation.placement.recipe.target if target is None else target
    if target is not None and target not in targets.names():
        raise unknown("target", target, targets.names())
    _check_name(path, target)
    write = None if target is None else _writer(target)
    if write is None:
        _check(target, simulation)
        onnx.export(simulation, path, example, target, postprocess)
        return _told(target, path)
    assert target is not None
    return _written(write, target, simulation, path, example, postprocess)


def export_float(
    simulation: Simulation,
    folder: Path,
    example: tuple[Any, ...],
    runtimes: Iterable[str],
    *,
    postprocess: bool = True,
    raw_folder: Path,
) -> Files:
    """Write the model before quantization for some runtimes: `model.onnx`, and their own files.

    Args:
        simulation: Of the model; its parameters are left out.
        folder: Where files are written.
        example: A batch's arguments.
        runtimes: Names of the runtimes that the files are for.
        postprocess: Whether a detector is written with the whole way from images to boxes.
        raw_folder: Where a one-stage detector's file up to its raw outputs is written.
    """
    path, raw = folder / f"{NAME}{ONNX}", raw_folder / f"{NAME}{ONNX}"
    onnx.export_float(simulation, path, example, postprocess, raw)
    plain = simulate(simulation.float_model, simulation.placement, QuantParams())
    plain.metadata = simulation.metadata
    readers = [name for name in runtimes if _writer(name) is None]
    files = Files(path, dict.fromkeys(readers, path))
    if raw.is_file():
        files.raw.update(dict.fromkeys(readers, raw))
    return _with_own(files, plain, folder, example, runtimes, postprocess)


def write_files(
    simulation: Simulation,
    folder: Path,
    example: tuple[Any, ...],
    runtimes: Sequence[str],
    *,
    postprocess: bool = True,
    raw_folder: Path | None = None,
) -> Files:
    """Write all files of a model into `folder`: `model.onnx`, and those of runtimes.

    Args:
        simulation: The quantized model, which stays as it is.
        folder: Where files are written.
        example: A batch's arguments.
        runtimes: Names of the runtimes that the files are for.
        postprocess: Whether a detector is written with the whole way from images to boxes.
        raw_folder: As of `onnx.write_files`.
    """
    readers = [name for name in runtimes if _writer(name) is None]
    for name in readers:
        _check(name, simulation)
    files = onnx.write_files(
        simulation, folder, example, readers, postprocess=postprocess, raw_folder=raw_folder
    )
    told = [f"{name}: {note}" for name in readers for note in _told(name, files.of_runtime[name])]
    files = replace(files, notes=tuple(told))
    return _with_own(files, simulation, folder, example, runtimes, postprocess)


def file_in(folder: Path, target: str | None) -> Path:
    """How a model's file in `folder` is called, where it is a target's own; `None`: for all."""
    own = target is not None and _writer(target) is not None
    return folder / f"{NAME}{targets.about(target).suffix if own and target else ONNX}"


def read_metadata(path: Path) -> dict[str, Any]:
    """What `export` put into a file: recipe, version, preprocessing, class names.

    Raises:
        SubbyteError: `path` is missing or is not a file of a target.
    """
    read = _own(path, "read_metadata")
    found: dict[str, Any] = onnx.read_metadata(path) if read is None else read(path)
    return found


def output_names(path: Path) -> list[str]:
    """What a file's outputs are called; raises `SubbyteError` as `read_metadata` does."""
    read = _own(path, "output_names")
    found: list[str] = onnx.output_names(path) if read is None else read(path)
    return found


def runtime_of(path: Path, asked: str | None, default: str = "onnxruntime") -> str:
    """Where a file runs: as asked for, or what it was written for, or the default.

    Args:
        path: The file.
        asked: The name of a runtime; `None`: none is asked for.
        default: For files that several runtimes read.

    Raises:
        SubbyteError: There is no such runtime, or it does not read the file.
    """
    owner = _owner(path)
    name = asked or owner or default
    if name not in targets.names():
        raise unknown("runtime", name, targets.names())
    check_reads(path, name)
    return name


def check_reads(path: Path, runtime: str) -> None:
    """Refuse a file in a runtime that reads other files."""
    owner = _owner(path)
    if owner is not None and owner != runtime:
        raise SubbyteError(f"{path} is a file of {owner}: {runtime} cannot read it")
    if owner is None and _writer(runtime) is not None:
        raise SubbyteError(
            f"{runtime} runs files that were written for it, and {path} was not: export with "
            f"target {runtime}"
        )


def check_boxes(runtimes: Iterable[str], model: Regional, postprocess: bool) -> None:
    """Refuse a detector with its way to boxes for a runtime whose files cannot hold it.

    Args:
        runtimes: Their names.
        model: The captured model.
        postprocess: Whether files are to hold the way to boxes.
    """
    raw = [name for name in runtimes if not targets.about(name).boxes]
    if raw and postprocess and model.region_names != WHOLE:
        raise SubbyteError(
            f"files of {raw[0]} hold a detector's raw outputs: give export.postprocess: false"
        )


def _with_own(
    files: Files,
    simulation: Simulation,
    folder: Path,
    example: tuple[Any, ...],
    runtimes: Iterable[str],
    postprocess: bool,
) -> Files:
    """The same with the files that targets write themselves."""
    notes = list(files.notes)
    for name in runtimes:
        write = _writer(name)
        if write is not None:
            path = file_in(folder, name)
            found = _written(write, name, simulation, path, example, postprocess)
            notes += [f"{name}: {note}" for note in found]
            files.of_runtime[name] = path
    return replace(files, notes=tuple(notes))


def _written(
    write: Writer,
    target: str,
    simulation: Simulation,
    path: Path,
    example: tuple[Any, ...],
    postprocess: bool,
) -> tuple[str, ...]:
    plain = simulation.with_plain_sums()
    made = simulate(plain.float_model, plain.placement.for_target(target), plain.params)
    made.metadata = {**plain.metadata, "target": target}
    return tuple(write(made, path, example, postprocess))


def _check(target: str | None, simulation: Simulation) -> None:
    """Refuse a model that a target without `write` cannot represent (its function `check`)."""
    check = None if target is None else getattr(targets.module(target), "check", None)
    if check is not None:
        check(simulation)


def _told(target: str | None, path: Path) -> tuple[str, ...]:
    """What a target without `write` says of a file that it is given (its function `notes`)."""
    notes = None if target is None else getattr(targets.module(target), "notes", None)
    return () if notes is None else tuple(notes(path))


def _check_name(path: Path, target: str | None) -> None:
    """Refuse a name by which a file would be taken for one of another target."""
    suffix = ONNX if target is None or _writer(target) is None else targets.about(target).suffix
    known = _format(path)
    if (known is not None and known != target) or (known is None and not suffix.endswith(ONNX)):
        kind = "an ONNX file" if suffix.endswith(ONNX) else f"a file of {target}"
        raise SubbyteError(f"{path} is not the name of {kind}: name one that ends in {suffix}")


def _writer(target: str) -> Writer | None:
    """How a target writes files of its own; `None`: it reads ONNX that is rewritten for it."""
    found: Writer | None = getattr(targets.module(target), "write", None)
    return found


def _format(path: Path) -> str | None:
    """The target whose files are called so and are not ONNX; `None`: it is ONNX."""
    for name in targets.names():
        suffix = targets.about(name).suffix
        if not suffix.endswith(ONNX) and path.name.endswith(suffix):
            return name
    return None


def _owner(path: Path) -> str | None:
    """The target that wrote a file by itself; `None`: several read it."""
    known = _format(path)
    if known is not None:
        return known
    target = read_metadata(path).get("target")
    return target if target in targets.names() and _writer(target) is not None else None


def _own(path: Path, function: str) -> Any:
    """A function of the target whose files are called so; `None`: they are ONNX."""
    known = _format(path)
    return None if known is None else getattr(targets.module(known), function)
