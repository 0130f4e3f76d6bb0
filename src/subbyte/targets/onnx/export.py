"""Writing a model as ONNX with Q/DQ, whole or not at all, with what belongs to it as metadata."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import onnx.utils
import torch
from torch import fx, nn

from subbyte.detectors.deployment import OF_DETECTORS, Deployment, deployment
from subbyte.errors import SubbyteError
from subbyte.graph.batch import at_least_two
from subbyte.graph.capture.export import cause, dynamic_shapes
from subbyte.graph.flow import WHOLE
from subbyte.placement.simulation import Captured
from subbyte.targets.onnx.batch_size import ask_first
from subbyte.targets.onnx.lower import lower
from subbyte.targets.onnx.names import free, names_of
from subbyte.targets.onnx.operators import TRANSLATIONS
from subbyte.targets.onnx.packing import pack
from subbyte.utils.files import atomic

OPSET = 21
INPUT, OUTPUT = "input", "output"


def export(
    captured: Captured,
    path: Path,
    example: tuple[Any, ...],
    target: str | None = None,
    postprocess: bool = True,
    raw: Path | None = None,
) -> None:
    """Write the quantized model to `path`. `example`: a batch's arguments; any batch size runs.

    `target`: the runtime that the file is for; `None` makes one for both. `postprocess`: a detector
    is written with the whole way from images to boxes, and not its raw outputs; then to `raw`, if
    it is given and the detector has one stage, the same up to these.

    Raises:
        SubbyteError: The graph has an operator that ONNX lacks, or `path` cannot be written.
    """
    metadata = captured.facts.metadata
    metadata = metadata if target is None else {**metadata, "target": target}
    deployed = _deployed(captured, lower(captured, target), example, postprocess)
    _write(deployed, path, metadata, raw)


def own_files(captured: Captured, targets: Iterable[str]) -> list[str]:
    """Those of `targets` whose file has other nodes or constants than the one for all."""
    common = lower(captured)
    return [target for target in targets if not _same(common, lower(captured, target))]


def export_float(
    captured: Captured,
    path: Path,
    example: tuple[Any, ...],
    postprocess: bool = True,
    raw: Path | None = None,
) -> None:
    """Write the model before quantization: the same graph, all of it in float32."""
    deployed = _deployed(captured, lower(captured, integers=False), example, postprocess)
    _write(deployed, path, captured.facts.metadata, raw)


def arguments(
    captured: Captured, example: tuple[Any, ...], postprocess: bool = True
) -> tuple[torch.Tensor, ...]:
    """What a file of the model is run with for the images of `example`.

    These themselves, but for raw outputs of a detector whose file begins at its regions.

    Raises:
        SubbyteError: The whole way cannot be written for this kind of model.
    """
    return _deployed(captured, captured.model, example, postprocess).args


def read_metadata(path: Path) -> dict[str, Any]:
    """What `export` put into the file: recipe, version, preprocessing, class names.

    Raises:
        SubbyteError: `path` is missing or no ONNX file.
    """
    prefix = "subbyte."
    return {
        entry.key.removeprefix(prefix): json.loads(entry.value)
        for entry in _read(path).metadata_props
        if entry.key.startswith(prefix)
    }


def output_names(path: Path) -> list[str]:
    """What a file's outputs are called; raises `SubbyteError` as `read_metadata` does."""
    return [output.name for output in _read(path).graph.output]


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise SubbyteError(f"there is no file {path}: name an ONNX file") from None
    except Exception as error:
        raise SubbyteError(f"{path} is no ONNX file that can be read: {error}") from error
    if not model.ir_version:
        raise SubbyteError(f"{path} is no ONNX file that can be read: it holds nothing")
    return model


def _deployed(
    captured: Captured, model: nn.Module, example: tuple[Any, ...], postprocess: bool
) -> Deployment:
    """What to write of a lowered model."""
    if captured.region_names == WHOLE:
        return Deployment(model, example)
    return deployment(model, captured, example, postprocess)


def _write(
    deployed: Deployment, path: Path, metadata: dict[str, Any], raw: Path | None = None
) -> None:
    model, args = deployed.module, at_least_two(deployed.args)
    names = [INPUT] if len(args) == 1 else [f"{INPUT}_{i}" for i in range(len(args))]
    taken = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    names = [free(name, taken) for name in names]
    _read_operators_once()
    try:
        with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
            program = torch.onnx.export(
                model,
                args,
                dynamo=True,
                dynamic_shapes=deployed.shapes or dynamic_shapes(model, args),
                custom_translation_table=TRANSLATIONS | OF_DETECTORS,
                opset_version=OPSET,
                input_names=names,
                output_names=deployed.outputs,
                verbose=False,
            )
    except Exception as error:
        raise SubbyteError(f"the model cannot be written as ONNX: {cause(error)}") from error
    assert program is not None
    proto = program.model_proto
    _rename_output(proto)
    ask_first(proto)
    pack(proto)
    _set_metadata(proto, metadata)
    if deployed.raw and raw is not None:
        _save(_cut(proto, names, deployed.raw), raw)
    for output in [output for output in proto.graph.output if output.name in deployed.raw]:
        proto.graph.output.remove(output)
    _save(proto, path)


def _read_operators_once() -> None:
    """Keep what `torch.onnx.export` reads of its operators, hundreds of functions' source.

    It reads them again for every file, which for a small model takes half of the time. Where it has
    them elsewhere, in another version, it goes on doing so.
    """
    with suppress(ImportError, AttributeError):
        apis = import_module("torch.onnx._internal.exporter._registration").onnxscript_apis
        if not hasattr(apis.get_torchlib_ops, "cache_info"):
            apis.get_torchlib_ops = cache(apis.get_torchlib_ops)


def _save(proto: onnx.ModelProto, path: Path) -> None:
    with atomic(path) as part:
        onnx.save(proto, str(part))


def _cut(proto: onnx.ModelProto, inputs: list[str], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """The part of a model that leads to some of its outputs."""
    found: onnx.ModelProto = onnx.utils.Extractor(proto).extract_model(inputs, list(outputs))
    found.metadata_props.extend(proto.metadata_props)
    del found.graph.value_info[:]
    return found


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two lowered copies of a model have the same graphs and the same tensors."""
    codes, tensors = [], []
    for model in (one, other):
        codes.append([part.code for part in model.modules() if isinstance(part, fx.GraphModule)])
        tensors.append(model.state_dict())
    return (
        codes[0] == codes[1]
        and tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    )


def _rename_output(proto: onnx.ModelProto) -> None:
    """Call a single output "output", as runtimes show it to their users."""
    if len(proto.graph.output) != 1:
        return
    old = proto.graph.output[0].name
    new = free(OUTPUT, names_of(proto.graph))
    for node in proto.graph.node:
        for i, name in enumerate(node.output):
            if name == old:
                node.output[i] = new
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
    proto.graph.output[0].name = new


def _set_metadata(proto: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=f"subbyte.{key}", value=json.dumps(value))
    # The exporter notes on each node where in the user's source it arose: not for a file to ship.
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]


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
