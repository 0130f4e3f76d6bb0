"""The one export of a model, which every target's form is made from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from subbyte.detectors.deployment import OF_DETECTORS, Deployment, deployment
from subbyte.errors import SubbyteError
from subbyte.graph.batch import at_least_two
from subbyte.graph.capture.export import cause, dynamic_shapes
from subbyte.graph.float_model import Regional
from subbyte.graph.flow import WHOLE
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import Rewrite
from subbyte.targets.onnx.graph import prune
from subbyte.targets.onnx.neutral import neutral
from subbyte.targets.onnx.operators import TRANSLATIONS
from subbyte.targets.onnx.resizing import TRANSLATIONS as OF_RESIZING

OPSET = 21
INPUT = "input"


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
    """Export a model once.

    Args:
        simulation: The quantized model.
        example: A batch's arguments; any batch size runs.
        postprocess: Whether a detector goes the whole way from images to boxes.

    Raises:
        SubbyteError: The graph has an operator that ONNX lacks.
    """
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
        return Deployment(model, example)
    return deployment(model, captured, example, postprocess)


def outputs_alone(model: ir.Model, names: Container[str]) -> ir.Model:
    """The part of a model that leads to these of its outputs; constants are shared."""
    part = model.clone()
    kept = [output for output in part.graph.outputs if output.name in names]
    part.graph.outputs[:] = kept
    prune(part)
    return part


def _export(deployed: Deployment) -> ir.Model:
    model, args = deployed.module, at_least_two(deployed.args)
    names = [INPUT] if len(args) == 1 else [f"{INPUT}_{i}" for i in range(len(args))]
    taken = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    names = [_free(name, taken) for name in names]
    _read_operators_once()
    try:
        with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
            program = torch.onnx.export(
                model,
                args,
                dynamo=True,
                dynamic_shapes=deployed.shapes or dynamic_shapes(model, args),
                custom_translation_table=TRANSLATIONS | OF_RESIZING | OF_DETECTORS,
                opset_version=OPSET,
                input_names=names,
                output_names=deployed.outputs,
                verbose=False,
            )
    except Exception as error:
        raise SubbyteError(f"the model cannot be written as ONNX: {cause(error)}") from error
    assert program is not None
    return program.model


def _free(name: str, taken: Container[str]) -> str:
    """`name`, or with underscores behind it until nothing else is called so."""
    while name in taken:
        name += "_"
    return name


def _read_operators_once() -> None:
    """Keep what `torch.onnx.export` reads of its operators, hundreds of functions' source.

    It reads them again for every file, which for a small model takes half of the time. Where it has
    them elsewhere, in another version, it goes on doing so.
    """
    with suppress(ImportError, AttributeError):
        apis = import_module("torch.onnx._internal.exporter._registration").onnxscript_apis
        if not hasattr(apis.get_torchlib_ops, "cache_info"):
            apis.get_torchlib_ops = cache(apis.get_torchlib_ops)


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
