"""ONNX files: what is read of them, and how they are written, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from subbyte.errors import SubbyteError
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


def save(model: ir.Model, path: Path, metadata: dict[str, Any]) -> None:
    """Write a model to a file, without what the exporter noted in it.

    Args:
        model: The graph.
        path: The file.
        metadata: What is noted in the file.

    Raises:
        SubbyteError: `path` cannot be written.
    """
    proto = ir.to_proto(model)
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=f"{PREFIX}{key}", value=json.dumps(value))
    # The exporter notes on each node where in the user's source it arose: not for a file to ship.
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    with atomic(path) as part:
        onnx.save(proto, str(part))


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
