"""ExecuTorch: `.pte` files that XNNPACK runs on CPUs, those of phones and boards above all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subbyte.errors import SubbyteError
from subbyte.graph.flow import WHOLE
from subbyte.placement.placement import TargetHints
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets.description import About
from subbyte.targets.onnx.program import deployed_as
from subbyte.targets.refusal import imported, refused
from subbyte.targets.xnnpack.kernels import int8_layers
from subbyte.targets.xnnpack.lowering import lowered
from subbyte.targets.xnnpack.placing import adjusted
from subbyte.targets.xnnpack.program import METADATA, METHOD, quietly, write_program
from subbyte.utils.files import atomic

__all__ = ["ABOUT", "HINTS", "adjusted", "fitted", "load", "output_names", "read_metadata"]

ABOUT = About(
    "ExecuTorch's files, for XNNPACK on CPUs (phones and boards too)",
    weights="2 to 8 bits, stored as int8 of zero point 0; those of 8 bits are symmetric",
    activations="2 to 8 bits, stored as int8, one scale and zero point for the tensor",
    layers="convolutions and linear layers; products of activations stay in float",
    detectors="the network's raw outputs",
    extra="executorch",
    suffix=".pte",
    own_files=True,
    boxes=False,
)
HINTS = TargetHints("executorch", quantized_results=True)
IDENTIFIER = b"ET12"  # of the files that ExecuTorch 1.5 reads, at the fifth byte
NAMES = "outputs"  # in the metadata: what the outputs are called


def fitted(recipe: Recipe) -> tuple[Recipe, Sequence[str]]:
    """The recipe, if XNNPACK can represent its weights, and what it has otherwise, as sentences.

    Raises:
        SubbyteError: It asks for asymmetric weights of 8 bits.
    """
    asked = [(recipe.weights, recipe.symmetric_weights)]
    for override in recipe.overrides.values():
        symmetric = override.symmetric_weights
        given = recipe.symmetric_weights if symmetric is None else symmetric
        asked.append((recipe.weights if override.weights is None else override.weights, given))
    if any(bits == 8 and symmetric is False for bits, symmetric in asked):
        raise SubbyteError(
            "XNNPACK has weights of 8 bits with zero point 0 alone: leave symmetric_weights out "
            "for target executorch, or give weights fewer bits"
        )
    if recipe.symmetric_weights is False and recipe.weights is not None and recipe.first_last == 8:
        return recipe, [
            "weights of 8 bits, those of the first and last layers, are symmetric, as XNNPACK "
            "takes them"
        ]
    return recipe, ()


def write(
    simulation: Simulation, path: Path, example: tuple[Any, ...], postprocess: bool
) -> Sequence[str]:
    """Write a model as a `.pte` that takes one image at a time.

    Args:
        simulation: The quantized model; one without parameters is written in float.
        path: The file.
        example: A batch's arguments.
        postprocess: Has no meaning: a detector's file gives the raw outputs.

    Returns:
        What the file does not have, as sentences.

    Raises:
        SubbyteError: ExecuTorch is not installed, or cannot lower the model.
    """
    imported("executorch")
    model, floats = lowered(simulation)
    deployed = deployed_as(simulation, model, example, postprocess=False)
    names = deployed.outputs or ("output",)
    metadata = {**simulation.metadata, NAMES: list(names), "executorch": version()}
    written = write_program(deployed.module.cpu(), deployed.args, metadata)
    with atomic(path) as part:
        part.write_bytes(written.content)
    return _notes(simulation, floats, written.delegates, written.others, postprocess)


def load(path: Path, threads: int) -> ExecuTorchSession:
    """Load a `.pte` to run on `threads` threads.

    Raises:
        SubbyteError: ExecuTorch is not installed, or cannot load the file.
    """
    program = _program(path)
    POOL.resize(threads)
    try:
        with quietly():
            method = program.load_method(METHOD)
            meta = method.metadata
            shapes = [tuple(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())]
    except Exception as error:
        raise _unreadable(path) from error
    return ExecuTorchSession(path, threads, program, method, tuple(shapes), POOL.generation)


def version() -> str:
    """The version of the package; `SubbyteError` if it is not installed."""
    imported("executorch")
    return version_of("executorch")


def read_metadata(path: Path) -> dict[str, Any]:
    """What `export` put into the file; nothing, where another tool has written it.

    Raises:
        SubbyteError: `path` is missing, or ExecuTorch cannot read it.
    """
    program = _program(path)
    if METADATA not in program.method_names:
        return {}
    with quietly():
        found: dict[str, Any] = json.loads(program.load_method(METADATA).execute([])[0])
    return found


def output_names(path: Path) -> list[str]:
    """What a file's outputs are called."""
    names: list[str] = read_metadata(path).get(NAMES, [])
    return names


@dataclass
class ThreadPool:
    """ExecuTorch's pool of threads, which all files of a process share.

    A method keeps the pool that there was when it was loaded, and must not run without it.

    Attributes:
        generation: How often its size has changed.
    """

    generation: int = 0

    def resize(self, threads: int) -> None:
        """Let it have so many threads; what was loaded before must be loaded again."""
        from executorch.extension.pybindings import portable_lib

        with quietly():
            if portable_lib._threadpool_get_thread_count() == threads:
                return
            portable_lib._unsafe_reset_threadpool(threads)
            self.generation += 1


POOL = ThreadPool()


@dataclass
class ExecuTorchSession:
    """A loaded file.

    Attributes:
        path: The file.
        threads: On how many it runs.
        program: ExecuTorch's own, which the method needs.
        method: What runs one image.
        shapes: Of its inputs.
        generation: Of the pool of threads with which the method was loaded.
    """

    path: Path
    threads: int
    program: Any
    method: Any
    shapes: tuple[tuple[int, ...], ...]
    generation: int

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch, image by image."""
        if self.generation != POOL.generation:  # another file runs on other threads
            again = load(self.path, self.threads)
            self.program, self.method, self.generation = (
                again.program,
                again.method,
                POOL.generation,
            )
        images = self._images(inputs)
        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
        found = [
            self._one(
                [x if len(x) == shape[0] else x[i : i + 1] for x, shape in self._pairs(tensors)]
            )
            for i in range(images)
        ]
        return found[0] if images == 1 else [np.concatenate(p) for p in zip(*found, strict=True)]

    def int8_ops(self) -> int:
        """How many convolutions and linear layers XNNPACK runs with int8 kernels."""
        return int8_layers(self.path.read_bytes())

    def _pairs(self, values: Sequence[Any]) -> list[tuple[Any, tuple[int, ...]]]:
        return list(zip(values, self.shapes, strict=True))

    def _images(self, inputs: Sequence[np.ndarray]) -> int:
        """How many images a batch has; `SubbyteError` if it does not fit the file."""
        if len(inputs) == len(self.shapes):
            sizes = {len(x) for x, shape in self._pairs(inputs) if x.shape != shape} or {1}
            fit = all(
                x.shape == shape or (shape[0] == 1 and x.shape[1:] == shape[1:])
                for x, shape in self._pairs(inputs)
            )
            if fit and len(sizes) == 1:
                return max(sizes)
        shapes = " and ".join(str(shape) for shape in self.shapes)
        raise refused(self.path, inputs, ValueError(f"it takes {shapes}, one or more of them"))

    def _one(self, inputs: list[torch.Tensor]) -> list[np.ndarray]:
        try:
            return [output.numpy() for output in self.method.execute(inputs)]
        except Exception as error:
            raise refused(self.path, [x.numpy() for x in inputs], error) from error


def _notes(
    simulation: Simulation,
    floats: Sequence[str],
    delegates: int,
    others: dict[str, int],
    postprocess: bool,
) -> list[str]:
    """What a reader must know of a file."""
    notes = ["the file takes one image at a time"]
    if simulation.region_names != WHOLE and postprocess:
        notes.append("the file gives the network's raw outputs, because it cannot hold boxes")
    if floats:
        hint = "" if simulation.placement.recipe.target else " (quantize with target: executorch)"
        one = len(floats) == 1
        have, its, it = ("layer has", "its", "it") if one else ("layers have", "their", "them")
        notes.append(
            f"{len(floats)} quantized {have} float kernels, because XNNPACK wants {its} "
            f"results quantized or has no kernel for {it}{hint}: {', '.join(floats)}"
        )
    if delegates != 1 or others:
        named = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
        notes.append(
            f"XNNPACK runs the network in {delegates} parts, and not these operators between "
            f"them: {named}"
        )
    return notes


def _program(path: Path) -> Any:
    """A file, opened; its beginning is looked at first, because ExecuTorch itself says little."""
    try:
        content = path.read_bytes()
    except OSError as error:
        if not path.exists():
            raise SubbyteError(f"there is no file {path}: name a .pte file") from None
        raise SubbyteError(f"{path} cannot be read ({error.strerror})") from None
    runtime = _runtime()
    if content[4:6] != IDENTIFIER[:2]:
        raise SubbyteError(f"{path} is not a file of ExecuTorch: name one that export has written")
    if content[4:8] != IDENTIFIER or len(content) < _length(content):
        raise _unreadable(path)
    try:
        with quietly():
            return runtime.load_program(content)
    except Exception as error:
        raise _unreadable(path) from error


def _runtime() -> Any:
    imported("executorch")
    with quietly():
        from executorch.runtime import Runtime

        return Runtime.get()


def _length(content: bytes) -> int:
    """How long a file says that it is."""
    from executorch.exir._serialize._program import _get_extended_header

    header = _get_extended_header(content)
    if header is None:
        return 0
    return int(max(header.program_size, header.segment_base_offset + header.segment_data_size))


def _unreadable(path: Path) -> SubbyteError:
    return SubbyteError(
        f"ExecuTorch {version()} cannot read {path}: it is broken, or was written by another "
        "version; export it again"
    )
