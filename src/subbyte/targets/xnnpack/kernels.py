"""Which layers of a `.pte` have int8 kernels: read of the graphs that XNNPACK makes of the file."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BACKEND = "XnnpackBackend"
SCHEMA = "executorch.backends.xnnpack.serialization"
LAYERS = {
    "XNNConv2d",
    "XNNDepthwiseConv2d",
    "XNNConvTranspose2d",
    "XNNDepthwiseConvTranspose2d",
    "XNNFullyConnected",
}
_UNBOUNDED = re.compile(r"(?<=: )(-?)inf\b")  # which flatc does not write as Python reads it
INTEGERS = "xnn_datatype_qint8"  # of an activation


def int8_layers(content: bytes) -> int:
    """How many convolutions and linear layers read int8 and have int8 weights.

    Args:
        content: The bytes of a `.pte`.
    """
    return sum(_layers(graph) for graph in _graphs(content))


def _layers(graph: dict[str, Any]) -> int:
    types: dict[int, str] = {}
    for value in graph["xvalues"]:
        tensor = value["xvalue_union"]
        tensor = tensor.get("tensor_value", tensor)
        types[tensor["id_out"]] = tensor["datatype"]
    nodes = [x for x in graph["xnodes"] if x["xnode_union_type"] in LAYERS]
    return sum(types[node["xnode_union"]["input1_id"]] == INTEGERS for node in nodes)


def _graphs(content: bytes) -> Iterator[dict[str, Any]]:
    """The graph of each delegate."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _get_flatc_path
    from executorch.exir._serialize._program import _extract_delegate_payload

    with TemporaryDirectory() as folder:
        schema, data = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes((resources.files(SCHEMA) / "schema.fbs").read_bytes())
        for i in itertools.count():
            payload = _extract_delegate_payload(content, BACKEND, i)
            if payload is None:
                return
            header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
            data.write_bytes(payload[header.flatbuffer_offset :][: header.flatbuffer_size])
            arguments = ["--json", "--strict-json", "--defaults-json", "--raw-binary", "-o", folder]
            subprocess.run(
                [_get_flatc_path(), *arguments, str(schema), "--", str(data)],
                check=True,
                capture_output=True,
            )
            text = (Path(folder) / "graph.json").read_text()
            found: dict[str, Any] = json.loads(_UNBOUNDED.sub(r"\1Infinity", text))
            yield found
