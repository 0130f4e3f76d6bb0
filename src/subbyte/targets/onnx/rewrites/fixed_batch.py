"""A batch of one image, with shapes that are numbers, for tools that build hardware of a graph."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from subbyte.targets.onnx.graph import prune

BATCH = 1


def fix_batch(model: ir.Model) -> None:
    """Give the inputs' first dimension the length 1, and work out what follows from it.

    Lengths that vary beside it (height and width) stay as they are.
    """
    graph = model.graph
    symbols = {
        name
        for value in graph.inputs
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int)
        for name in value.shape[0].free_symbols()
    }
    sizes = dict.fromkeys(symbols, BATCH)
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_length(n, sizes) for n in value.shape])
    fold_constants(model, onnx_shape_inference=True)
    prune(model)


def _length(length: int | ir.SymbolicDim, sizes: dict[str, int]) -> int | ir.SymbolicDim:
    if isinstance(length, int) or length.value is None:
        return length
    found = length.evaluate(sizes)
    return found if isinstance(found, int) else length
