"""Linear layers of which each part goes its own way (queries, keys and values).

They are written as one layer a part, so that nothing is copied to take the parts from each other,
and each is quantized right where it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, LINEAR
from subbyte.targets.onnx.graph import (
    array,
    attribute,
    constant,
    integers,
    number,
    only_reader,
    prune,
    put,
    readers,
    replace,
    shape_of,
)
from subbyte.targets.onnx.layout import (
    Step,
    constant_axes,
    is_layout,
    permutation,
    step_of,
    take,
)
from subbyte.targets.onnx.qdq import is_qdq


@dataclass(frozen=True)
class _Part:
    """A part of a tensor.

    Attributes:
        value: The part.
        dimension: The dimension in which it is cut.
        positions: Those of the part.
        single: The part has one position, and not the dimension.
    """

    value: ir.Value
    dimension: int
    positions: list[int]
    single: bool = False


def split_linears(model: ir.Model) -> None:
    """Write each quantized linear layer as several, if only quantized parts of it are read.

    The parts have the integers and scales that they have in the whole.
    """
    for node in list(model.graph):
        if (node.domain, node.op_type) == (DOMAIN, LINEAR) and _reads_quantized(node):
            _split(model.graph, node)
    prune(model)


def _split(graph: ir.Graph, linear: ir.Node) -> None:
    value = linear.outputs[0]
    reader = only_reader(value)
    while reader is not None and is_layout(reader) and reader.inputs[0] is value:
        value = reader.outputs[0]
        reader = only_reader(value)
    for part in _parts(value):
        taker = part.value.producer()
        assert taker is not None
        new = _Rows(graph, taker, f"{part.value.name}").of(value, part.dimension, part.positions)
        if new is None:
            return  # what holds for one part holds for all
        if part.single:
            axes = constant(graph, f"{part.value.name}_axes", [part.dimension], np.int64)
            new = put(taker, "Squeeze", [new, axes])
        replace(part.value, new)


def _reads_quantized(linear: ir.Node) -> bool:
    source = linear.inputs[0]
    made = None if source is None else source.producer()
    while made is not None and is_layout(made):
        source = made.inputs[0]
        made = None if source is None else source.producer()
    return is_qdq(made)


def _parts(value: ir.Value) -> list[_Part]:
    """All that is read of a value, if these are parts and each is quantized; else nothing."""
    shape = shape_of(value)
    if shape is None or value.is_graph_output():
        return []
    parts: list[_Part] = []
    for taker in readers(value):
        found = _taken(value, taker, shape)
        if not found:
            return []
        parts += found
    return parts if len(parts) > 1 and all(_is_quantized(part.value) for part in parts) else []


def _taken(value: ir.Value, taker: ir.Node, shape: Sequence[int | str]) -> list[_Part]:
    """The parts of a value that a node takes; none, if it does something else."""
    axis = attribute(taker, "axis", 0) % len(shape)
    if taker.op_type == "Slice":
        return _sliced(taker, shape)
    length = shape[axis]
    if not isinstance(length, int) or taker.inputs[0] is not value:
        return []
    places = np.arange(length)
    if taker.op_type == "Gather":
        index = array(taker.inputs[1])
        if index is None or index.ndim > 1:
            return []
        chosen = places[index].reshape(-1).tolist()
        return [_Part(taker.outputs[0], axis, chosen, index.ndim == 0)]
    if taker.op_type == "Split":
        outputs = taker.outputs
        given = integers(taker.inputs[1]) if len(taker.inputs) > 1 else None
        step = -(-length // len(outputs))
        sizes = given or [min(step, length - i * step) for i in range(len(outputs))]
        pieces = np.split(places, np.cumsum(sizes)[:-1])
        return [
            _Part(output, axis, piece.tolist())
            for output, piece in zip(outputs, pieces, strict=True)
            if output.uses()
        ]
    return []


def _sliced(taker: ir.Node, shape: Sequence[int | str]) -> list[_Part]:
    given = [integers(value) for value in taker.inputs[1:]]
    if any(found is None or len(found) != 1 for found in given) or len(given) < 3:
        return []
    (start,), (end,), (axis,), (step,) = [*given, [1]][:4]  # type: ignore[misc]
    length = shape[axis % len(shape)]
    if not isinstance(length, int):
        return []
    chosen = list(range(length))[slice(start, end, step)]
    return [_Part(taker.outputs[0], axis % len(shape), chosen)]


def _is_quantized(value: ir.Value) -> bool:
    """Whether a Q/DQ follows, with no more in between than moves and a product with a number."""
    reader = only_reader(value)
    while reader is not None:
        if is_qdq(reader):
            return True
        by_number = reader.op_type == "Mul" and any(number(x) is not None for x in reader.inputs)
        if not by_number and not (is_layout(reader) and reader.inputs[0] is value):
            return False
        value = reader.outputs[0]
        reader = only_reader(value)
    return False


@dataclass(frozen=True)
class _Rows:
    """Puts in front of `before` what computes no more than some positions of a dimension."""

    graph: ir.Graph
    before: ir.Node
    name: str

    def of(self, value: ir.Value, dimension: int, positions: list[int]) -> ir.Value | None:
        """`value` with these positions alone, down from the linear layer; `None`: cannot be."""
        node, shape = value.producer(), shape_of(value)
        if node is None or shape is None:
            return None
        if (node.domain, node.op_type) == (DOMAIN, LINEAR):
            return self._linear(node, positions) if dimension == len(shape) - 1 else None
        found = _before(node, dimension, positions)
        source = node.inputs[0]
        if found is None or source is None:
            return None
        step = step_of(node)
        if node.op_type in ("Reshape", "Flatten"):
            # What is before the last dimension stays, 0 says; no length but the batch's varies.
            kept = len(source.shape or ()) - 1
            lengths = [*[0] * kept, *(int(n) for n in shape[kept:])]
            lengths[dimension] = len(positions)
            step = Step("Reshape", reshape=tuple(lengths))
        new = self.of(source, *found)
        if new is None:
            return None
        taken = take(self.before, new, step)
        taken.shape = ir.Shape([*shape[:dimension], len(positions), *shape[dimension + 1 :]])
        return taken

    def _linear(self, linear: ir.Node, outputs: list[int]) -> ir.Value | None:
        data, weight, *bias = linear.inputs
        shape = shape_of(linear.outputs[0])
        assert shape is not None
        inputs = [data, self._channels(weight, outputs, 1)]
        inputs += [self._channels(value, outputs, 0) for value in bias]
        if any(value is None for value in inputs):
            return None
        return put(self.before, LINEAR, inputs, shape=[*shape[:-1], len(outputs)], domain=DOMAIN)

    def _channels(self, value: ir.Value | None, channels: list[int], axis: int) -> ir.Value | None:
        """A weight or bias of some channels: its integers, and what else is one a channel."""
        if value is None or array(value) is not None:
            return self._constant(value, channels, axis)
        node = value.producer()
        if node is None or node.op_type != "DequantizeLinear":
            return None
        inputs = [self._constant(node.inputs[0], channels, axis)]
        inputs += [self._constant(given, channels, 0) for given in node.inputs[1:]]
        if any(found is None for found in inputs):
            return None
        given = {name: found.value for name, found in node.attributes.items()}
        return put(self.before, "DequantizeLinear", inputs, given)

    def _constant(self, value: ir.Value | None, channels: list[int], axis: int) -> ir.Value | None:
        content = array(value)
        if value is None or content is None or content.ndim == 0:
            return value if content is not None else None  # one for all channels
        return constant(self.graph, f"{value.name}_{self.name}", content.take(channels, axis=axis))


def _before(node: ir.Node, dimension: int, positions: list[int]) -> tuple[int, list[int]] | None:
    """The dimension and the positions of an operator's input that those of its result come from."""
    source = node.inputs[0]
    shape = None if source is None else shape_of(source)
    if shape is None:
        return None
    if node.op_type == "Identity":
        return dimension, positions
    if node.op_type == "Transpose":
        return permutation(node)[dimension], positions
    if node.op_type == "Unsqueeze":
        axes = constant_axes(node, len(shape) + len(integers(node.inputs[1]) or ()))
        if axes is None or dimension in axes:
            return None
        return dimension - sum(axis < dimension for axis in axes), positions
    if node.op_type == "Squeeze":
        axes = constant_axes(node, len(shape))
        if axes is None:
            return None
        return [d for d in range(len(shape)) if d not in axes][dimension], positions
    return _before_reshape(node, shape, dimension, positions)


def _before_reshape(
    node: ir.Node, old: list[int | str], dimension: int, positions: list[int]
) -> tuple[int, list[int]] | None:
    """The same for a reshape that splits the last dimension."""
    new, kept = shape_of(node.outputs[0]), len(old) - 1
    if new is None or node.op_type not in ("Reshape", "Flatten"):
        return None
    if dimension < kept or old[:-1] != new[:kept]:
        return None
    lengths = [n for n in new[kept:] if isinstance(n, int)]
    last = old[-1]
    if len(lengths) != len(new) - kept or not isinstance(last, int):
        return None
    index = np.arange(last).reshape(lengths).take(positions, axis=dimension - kept)
    return kept, index.reshape(-1).tolist()
