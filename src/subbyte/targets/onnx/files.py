"""ONNX files: what is read of them, and how they are written, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from subbyte.errors import SubbyteError
from subbyte.targets.onnx.axes import name_axes
from subbyte.utils.files import atomic

PREFIX = "subbyte."


def read_metadata(path: Path) -> dict[str, Any]:
    """What `export` put into the file: recipe, version, preprocessing, class names.

    Raises:
        SubbyteError: `path` is missing or is not an ONNX file.
    """
    return {
        entry.key.removeprefix(PREFIX): json.loads(entry.value)
        for entry in _read(path).metadata_props
        if entry.key.startswith(PREFIX)
    }


def output_names(path: Path) -> list[str]:
    """What a file's outputs are called; raises `SubbyteError` as `read_metadata` does."""
    return [output.name for output in _read(path).graph.output]


class _NotKeptError(Exception):
    """A file that is not to appear."""


def save(
    model: ir.Model,
    path: Path,
    metadata: dict[str, Any],
    keep: Callable[[Path], bool] = lambda _: True,
    *,
    shapes: bool = False,
) -> bool:
    """Write a model to a file, without what the exporter noted in it; ONNX's checker looks at it.

    Args:
        model: The graph.
        path: The file.
        metadata: What is noted in the file.
        keep: Whether the file, given where it is meanwhile, is to appear at `path`.
        shapes: Whether the shapes of values within the graph are noted too.

    Returns:
        Whether it does.

    Raises:
        SubbyteError: `path` cannot be written, or the file is not valid.
    """
    try:
        with atomic(path) as part:
            onnx.save(_proto(model, metadata, shapes), str(part))
            _check(part, path)
            if not keep(part):
                raise _NotKeptError
    except _NotKeptError:
        return False
    return True


def _proto(model: ir.Model, metadata: dict[str, Any], shapes: bool) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=f"{PREFIX}{key}", value=json.dumps(value))
    # The exporter notes on each node where in the user's source it arose: not for a file to ship.
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    del proto.graph.metadata_props[:]
    if not shapes:
        del proto.graph.value_info[:]
    name_axes(proto.graph)
    return proto


def _check(part: Path, path: Path) -> None:
    try:
        onnx.checker.check_model(str(part))
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(
            f"{path} is not written, because the model's ONNX graph is not valid: {reason[:300]}; "
            "report it with the model"
        ) from error


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise SubbyteError(f"there is no file {path}: name an ONNX file") from None
    except Exception as error:
        raise SubbyteError(f"{path} is not an ONNX file that can be read: {error}") from error
    if not model.ir_version:
        raise SubbyteError(f"{path} is not an ONNX file that can be read: it holds nothing")
    return model
