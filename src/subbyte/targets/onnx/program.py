"""The one export of a model, which every target's form is made from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from subbyte.detectors.deployment import OF_DETECTORS, Deployment, deployment
from subbyte.errors import SubbyteError
from subbyte.graph.batch import at_least_two
from subbyte.graph.capture.any_size import depends_on_size
from subbyte.graph.capture.composites import find_composites_once
from subbyte.graph.capture.export import dynamic_shapes
from subbyte.graph.capture.place import cause, fixes_batch, is_about_batch
from subbyte.graph.capture.place import quiet as quiet_capture
from subbyte.graph.float_model import Regional
from subbyte.graph.flow import WHOLE
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import Rewrite
from subbyte.targets.onnx.average_pooling import TRANSLATIONS as POOLING
from subbyte.targets.onnx.fourier import TRANSLATIONS as OF_FOURIER
from subbyte.targets.onnx.graph import prune
from subbyte.targets.onnx.indices import widen_indices
from subbyte.targets.onnx.lengths import OF_LENGTHS
from subbyte.targets.onnx.max_pooling import merge_padding
from subbyte.targets.onnx.neutral import neutral
from subbyte.targets.onnx.operators import TRANSLATIONS
from subbyte.targets.onnx.resizing import TRANSLATIONS as OF_RESIZING
from subbyte.targets.onnx.torchlib import read_operators_once

OPSET = 21
TABLE = TRANSLATIONS | POOLING | OF_RESIZING | OF_FOURIER | OF_LENGTHS | OF_DETECTORS
INPUT = "input"
FLIPS = 0.05  # share of an output's energy that roundings to the next integer can make up


@dataclass(frozen=True)
class Program:
    """A model as a graph of our own operators, for whichever target.

    Attributes:
        model: The graph.
        raw: Names of the outputs that are what a detector's network gives, and are a file of their
            own.
    """

    model: ir.Model
    raw: tuple[str, ...] = ()

    def form(self, rewrites: Sequence[Rewrite]) -> ir.Model:
        """What some rewrites make of it, one after the other; it shares the constants."""
        model = self.model.clone()
        for rewrite in rewrites:
            rewrite(model)
        return model


def program_of(simulation: Simulation, example: tuple[Any, ...], postprocess: bool) -> Program:
    """Export a model once, with sums as the runtimes' are.

    Args:
        simulation: The quantized model.
        example: A batch's arguments; any batch size runs.
        postprocess: Whether a detector goes the whole way from images to boxes.

    Raises:
        SubbyteError: The graph has an operator that ONNX lacks.
    """
    simulation = simulation.with_plain_sums()
    deployed = deployed_as(simulation, neutral(simulation), example, postprocess)
    return Program(_export(deployed), deployed.raw)


def deployed_as(
    captured: Regional, model: nn.Module, example: tuple[Any, ...], postprocess: bool
) -> Deployment:
    """What to write of a model.

    Args:
        captured: The captured model.
        model: A copy of it, lowered for a target.
        example: A batch's arguments.
        postprocess: Whether a detector goes the whole way from images to boxes.
    """
    if captured.region_names == WHOLE:
        return Deployment(_tensors_alone(model), example)
    return deployment(model, captured, example, postprocess)


def _tensors_alone(model: nn.Module) -> nn.Module:
    """A graph without the numbers among its outputs, which are constants and no part of a file."""
    output = next(iter(reversed(cast("fx.GraphModule", model).graph.nodes)))
    leaves = pytree.tree_leaves(output.args[0], is_leaf=lambda x: isinstance(x, fx.Node))
    if all(leaf is None or isinstance(leaf, fx.Node) for leaf in leaves):
        return model
    return _Kept(model, [i for i, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)])


class _Kept(nn.Module):
    """Some of what a model gives."""

    def __init__(self, model: nn.Module, numbers: list[int]) -> None:
        super().__init__()
        self.model, self.numbers = model, numbers

    def forward(self, *args: Any) -> list[Any]:
        leaves = pytree.tree_leaves(self.model(*args), is_leaf=lambda x: x is None)
        return [leaves[number] for number in self.numbers]


def outputs_alone(model: ir.Model, names: Container[str]) -> ir.Model:
    """The part of a model that leads to these of its outputs; constants are shared."""
    part = model.clone()
    kept = [output for output in part.graph.outputs if output.name in names]
    part.graph.outputs[:] = kept
    prune(part)
    return part


def _export(deployed: Deployment) -> ir.Model:
    model, given = deployed.module, at_least_two(deployed.args)
    args = tuple(given)
    count = sum(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(args))
    names = [INPUT] if count == 1 else [f"{INPUT}_{i}" for i in range(count)]
    taken = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    names = [_free(name, taken) for name in names]
    find_composites_once()
    read_operators_once()
    shapes = deployed.shapes or dynamic_shapes(model, given)
    try:
        program = _written(model, args, shapes, names, deployed.outputs)
    except SubbyteError as error:
        if not is_about_batch(error):
            raise
        raise SubbyteError(fixes_batch(model, args, {}, shapes)) from error
    if deployed.own_code and _fixes_batch(deployed.module, program, args):
        strict = _strict(model, args, shapes)
        program = _written(strict, args, shapes, names, deployed.outputs)
        if _fixes_batch(deployed.module, program, args):
            raise SubbyteError(fixes_batch(model, args, {}, shapes))
    written: ir.Model = program.model
    _register_constants(written.graph)
    widen_indices(written.graph)
    merge_padding(written.graph)
    return written


def _written(
    model: nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...],
    shapes: Any,
    names: list[str],
    outputs: tuple[str, ...] | None,
) -> Any:
    """What PyTorch's exporter makes of a model.

    Args:
        model: The model, or what was captured of it.
        args: Its arguments for one batch.
        shapes: Which dimensions are dynamic.
        names: Of the inputs.
        outputs: Names of the outputs; `None`: the exporter's own.
    """
    try:
        with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
            program = torch.onnx.export(
                model,
                (*args, {}),  # behind which a dictionary is one of the arguments
                dynamo=True,
                dynamic_shapes=shapes,
                custom_translation_table=TABLE,
                opset_version=OPSET,
                input_names=names,
                output_names=outputs,
                verbose=False,
            )
    except Exception as error:
        raise SubbyteError(f"the model cannot be written as ONNX: {cause(error)}") from error
    assert program is not None
    return program


def _fixes_batch(model: nn.Module, program: Any, args: tuple[Any, ...]) -> bool:
    """Whether what was written holds the example's batch size as a number."""
    captured = program.exported_program.module(check_guards=False)
    return depends_on_size(model, captured, args, noise=FLIPS)


def _strict(model: nn.Module, args: tuple[Any, ...], shapes: Any) -> torch.export.ExportedProgram:
    """A model captured from its bytecode, which follows more of what code does with lengths.

    Raises:
        SubbyteError: It fixes the batch size there too.
    """
    try:
        with quiet_capture(), torch.no_grad():
            return torch.export.export(model, args, dynamic_shapes=shapes, strict=True)
    except Exception as error:
        raise SubbyteError(fixes_batch(model, args, {}, shapes)) from error


def _register_constants(graph: ir.Graph) -> None:
    """Let the graph hold every constant that a node reads, by a name of its own.

    The exporter's optimizer names a constant after the value that it belongs to, and the second one
    of a name (two flattenings of one tensor) takes the first one's place.
    """
    for node in graph:
        for value in node.inputs:
            if value is None or value.const_value is None or value.producer() is not None:
                continue
            name = str(value.name)
            if graph.initializers.get(name) is not value:
                value.name = _free(name, graph.initializers)
                graph.register_initializer(value)


def _free(name: str, taken: Container[str]) -> str:
    """`name`, or with underscores behind it until nothing else is called so."""
    while name in taken:
        name += "_"
    return name


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Without warnings and the remarks of these loggers, which are about a tool's workings."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
