"""Names of the axes of a file's inputs and outputs whose lengths vary."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

BATCH, PLANE, LINE = "batch", {2: "height", 3: "width"}, {1: "length"}
SYMBOL = re.compile(r"\b[su]\d+\b")  # as torch.export calls a length


def name_axes(graph: onnx.GraphProto) -> None:
    """Call lengths that vary by what they are, in place: those of the inputs and all made of them.

    The first axis of an input is the batch, the others of an image height and width, the second one
    of three a length. What is none of these is called after its input or output.
    """
    names: dict[str, str] = {}
    for value in graph.input:
        for axis, dim in _varying(value):
            if axis == 0:
                names |= dict.fromkeys(SYMBOL.findall(dim.dim_param), BATCH)
    for value in (*graph.input, *graph.output):
        for axis, dim in _varying(value):
            for symbol in SYMBOL.findall(dim.dim_param):
                if symbol not in names:
                    names[symbol] = _free(_name(value, axis), names)
            dim.dim_param = SYMBOL.sub(lambda found: names[found.group()], dim.dim_param)


def _varying(
    value: onnx.ValueInfoProto,
) -> Iterator[tuple[int, onnx.TensorShapeProto.Dimension]]:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_param:
            yield axis, dim


def _name(value: onnx.ValueInfoProto, axis: int) -> str:
    rank = len(value.type.tensor_type.shape.dim)
    known = {4: PLANE, 3: LINE}.get(rank, {})
    return known.get(axis, f"{value.name}_axis_{axis}")


def _free(name: str, names: dict[str, str]) -> str:
    """`name`, or with the name's number behind it where another length is called so."""
    taken = set(names.values())
    numbered = (name if i == 1 else f"{name}_{i}" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate not in taken)
