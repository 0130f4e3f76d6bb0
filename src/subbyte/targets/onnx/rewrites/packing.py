"""Weights of 2 to 7 bits in as many bits a value, which the runtimes unpack when they load a file.

Of at most 4 bits they may be int4: int4 → Cast → int8 weight. Behind a DequantizeLinear of int4
itself the runtimes would compute the layer in float. `planes.py` writes the other widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, attribute, constant, put
from subbyte.targets.onnx.planes import WIDTHS, Levels, shared_bytes, unpacked

INT8 = ir.DataType.INT8
INT4_BITS, WHOLE = 4, 8
NODE, CONSTANT = 45, 30  # bytes that one takes in a file beside its content, about


def pack(model: ir.Model) -> None:
    """Store the int8 weights in the widths with which the file is smallest, in place."""
    weights = list(_weights(model))
    widths = min(_choices(), key=lambda chosen: _bytes_with(weights, chosen))
    packed: dict[int, list[_Weight]] = {}
    for weight in weights:
        packed.setdefault(weight.width(widths), []).append(weight)
    for weight in packed.get(INT4_BITS, ()):
        integers = weight.integers - weight.shift(INT4_BITS)
        held = constant(model.graph, f"{weight.value.name}_int4", integers, ml_dtypes.int4)
        shape = integers.shape
        value = put(weight.node, "Cast", [held], {"to": INT8}, shape=shape, dtype=INT8)
        _put_back(model.graph, weight, value, INT4_BITS)
    for width in sorted(packed.keys() & set(WIDTHS)):
        levels = [weight.levels(width) for weight in packed[width]]
        for weight, value in zip(packed[width], unpacked(model.graph, width, levels), strict=True):
            _put_back(model.graph, weight, value, width)


@dataclass(frozen=True, eq=False)
class _Weight:
    """An int8 constant that a DequantizeLinear reads.

    Attributes:
        node: The first one that reads it.
        value: The constant.
        integers: What it holds.
        low: The lowest integer of each channel, with the rank of the integers.
        high: The highest one.
    """

    node: ir.Node
    value: ir.Value
    integers: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def width(self, widths: Sequence[int]) -> int:
        """The one of these widths, of int4 and of int8 in which it takes the fewest bytes."""
        return min((WHOLE, INT4_BITS, *widths), key=self.bytes_in)

    def bytes_in(self, width: int) -> float:
        """What it takes in a file in so many bits a value, about."""
        if width == WHOLE:
            return self.integers.size
        if (self.high - self.low >= 2**width).any():
            return np.inf
        shift = NODE + CONSTANT + self.low.size if self.shift(width).any() else 0
        return self.integers.size * width / 8 + NODE + shift

    def shift(self, width: int) -> np.ndarray:
        """What is taken from each channel so that it fits; 0 where it fits as it is."""
        half = 2 ** (width - 1)
        shift: np.ndarray = np.clip(0, self.high - (half - 1), self.low + half).astype(np.int8)
        return shift

    def levels(self, width: int) -> Levels:
        """The integers, shifted to 0 … 2^width − 1."""
        moved = self.integers - self.shift(width) + 2 ** (width - 1)
        return Levels(self.node, moved.astype(np.uint8))


def _weights(model: ir.Model) -> Iterator[_Weight]:
    seen: set[ir.Value] = set()
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if value is None or not value.is_initializer() or value.dtype != INT8 or value in seen:
            continue
        seen.add(value)
        integers = array(value)
        assert integers is not None
        if integers.size:
            scale = array(node.inputs[1])
            one = scale is not None and scale.size == 1  # for all channels
            axis = None if one else attribute(node, "axis", 1) % max(integers.ndim, 1)
            others = tuple(d for d in range(integers.ndim) if d != axis)
            low, high = integers.min(others, keepdims=True), integers.max(others, keepdims=True)
            yield _Weight(node, value, integers, low.astype(np.int32), high.astype(np.int32))


def _choices() -> Iterator[tuple[int, ...]]:
    """Every set of widths beside int4 and int8."""
    return chain.from_iterable(combinations(WIDTHS, n) for n in range(len(WIDTHS) + 1))


def _bytes_with(weights: Sequence[_Weight], widths: tuple[int, ...]) -> float:
    """What the weights, and what unpacks them, take in a file with no other widths."""
    chosen = [(weight, weight.width(widths)) for weight in weights]
    used = {width for _, width in chosen} & set(widths)
    return shared_bytes(used, NODE, CONSTANT) + sum(w.bytes_in(width) for w, width in chosen)


def _put_back(graph: ir.Graph, weight: _Weight, value: ir.Value, width: int) -> None:
    """Let all that reads a weight read `value` plus its shift, which takes the weight's name."""
    name = str(weight.value.name)
    del graph.initializers[name]
    shift = weight.shift(width)
    if shift.any():
        moved = constant(graph, f"{name}_shift", shift)
        shape = weight.integers.shape
        value = put(weight.node, "Add", [value, moved], shape=shape, dtype=INT8)
    weight.value.replace_all_uses_with(value)
    value.name = name
