"""Arithmetic with lengths: what a file computes of shapes, done with numbers and not with tensors.

Arrays hold Python's numbers, or the symbols with which `torch.export` traces a dynamic batch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch

from subbyte.models.onnx.network import Network, Node
from subbyte.models.onnx.operators import operators

Function = Callable[..., Any]
FLOATS = (1, 10, 11, 16)  # ONNX's numbers for types of floats
FEW = 64  # floats up to so many may be numbers: scales of a resize
LENGTHS = ("Shape", "Size")


def objects(values: Any) -> np.ndarray:
    """An array of Python's numbers."""
    return np.asarray(values).astype(object)


def _each(function: Callable[..., Any]) -> Function:
    """A function of numbers, for arrays that are spread to one shape."""

    def call(node: Node, *arrays: np.ndarray) -> np.ndarray:
        del node
        return _mapped(function, *arrays)

    return call


def _mapped(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    spread = np.broadcast_arrays(*arrays)
    result = np.empty(spread[0].shape, dtype=object)
    for place in np.ndindex(result.shape):
        result[place] = function(*(array[place] for array in spread))
    return result


def _is_float(value: Any) -> bool:
    return isinstance(value, float | torch.SymFloat)


def _divide(left: Any, right: Any) -> Any:
    if _is_float(left) or _is_float(right):
        return left / right
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    return left // right  # lengths are not negative


def _sqrt(value: Any) -> Any:
    return torch.sym_sqrt(value) if isinstance(value, torch.SymFloat) else math.sqrt(value)


def _cast(node: Node, x: np.ndarray) -> np.ndarray:
    kind = node.get("to")
    if kind in FLOATS:
        return _mapped(torch.sym_float, x)
    if kind == 9:
        return _mapped(bool, x)
    return _mapped(torch.sym_int, x)


def _where(condition: Any, left: Any, right: Any) -> Any:
    return left if condition else right


def _gather(node: Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return np.asarray(np.take(x, indices.astype(np.int64), axis=node.get("axis", 0)), dtype=object)


def _slice(
    node: Node,
    x: np.ndarray,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    first = node.get("starts") if starts is None else starts.reshape(-1).tolist()
    last = node.get("ends") if ends is None else ends.reshape(-1).tolist()
    given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
    by = [1] * len(first) if steps is None else steps.reshape(-1).tolist()
    parts: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(given or range(len(first)), first, last, by, strict=True):
        below = step < 0 and end < -x.shape[axis]  # back beyond the first
        parts[axis] = slice(start, None if below else end, step)
    return np.asarray(x[tuple(parts)], dtype=object)


def _unsqueeze(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
    return np.expand_dims(x, tuple(given))


def _squeeze(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
    return np.asarray(np.squeeze(x, None if given is None else tuple(given)), dtype=object)


def _reshape(node: Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    del node
    return x.reshape([int(n) for n in shape.reshape(-1)])


def _concat(node: Node, *parts: np.ndarray) -> np.ndarray:
    return np.asarray(np.concatenate(parts, axis=node.get("axis", 0)), dtype=object)


def _split(node: Node, x: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    given = node.get("split") if sizes is None else sizes.reshape(-1).tolist()
    axis, count = node.get("axis", 0), len(node.outputs)
    length = -(-x.shape[axis] // count)
    given = [length] * (count - 1) if given is None else given[:-1]
    return tuple(np.split(x, np.cumsum([int(n) for n in given]).tolist(), axis))


def _reduce(function: Callable[[Any, Any], Any]) -> Function:
    def call(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
        along = [a % x.ndim for a in given] if given else list(range(x.ndim))
        for axis in sorted(along, reverse=True):
            parts = np.moveaxis(x, axis, 0)
            x = np.asarray(reduce(lambda a, b: _mapped(function, a, b), parts), dtype=object)
            x = np.expand_dims(x, axis) if node.get("keepdims", 1) else x
        return x

    return call


def _shape(node: Node, x: np.ndarray) -> np.ndarray:
    return objects(list(x.shape)[node.get("start", 0) : node.get("end")])


def _size(node: Node, x: np.ndarray) -> np.ndarray:
    del node
    return objects(x.size)


def _filled(node: Node, shape: np.ndarray) -> np.ndarray:
    value = node.get("value")
    filling = 0.0 if value is None else value.reshape(-1)[0].item()
    result = np.empty([int(n) for n in shape.reshape(-1)], dtype=object)
    result.fill(filling)
    return result


def _transpose(node: Node, x: np.ndarray) -> np.ndarray:
    return np.transpose(x, node.get("perm"))


def _expand(node: Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    del node
    wanted = np.broadcast_shapes(x.shape, tuple(int(n) for n in shape.reshape(-1)))
    return np.broadcast_to(x, wanted)


def _tile(node: Node, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    del node
    return np.tile(x, [int(n) for n in repeats.reshape(-1)])


def _range(node: Node, start: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray:
    del node
    return objects(np.arange(start.item(), end.item(), step.item()))


def _identity(node: Node, x: np.ndarray) -> np.ndarray:
    del node
    return x


# Those of them that may give many numbers: as tensors, unless a shape is made of them.
FILLING = {"ConstantOfShape", "Expand", "Range", "Tile"}
# Operators that are computed with numbers where all they read is numbers.
SIZES: dict[str, Function] = {
    "Abs": _each(abs),
    "Add": _each(operator.add),
    "And": _each(lambda a, b: bool(a) and bool(b)),
    "Cast": _cast,
    "Ceil": _each(math.ceil),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _each(_divide),
    "Equal": _each(operator.eq),
    "Expand": _expand,
    "Floor": _each(math.floor),
    "Gather": _gather,
    "Greater": _each(operator.gt),
    "GreaterOrEqual": _each(operator.ge),
    "Identity": _identity,
    "Less": _each(operator.lt),
    "LessOrEqual": _each(operator.le),
    "Max": _each(torch.sym_max),
    "Min": _each(torch.sym_min),
    "Mod": _each(operator.mod),
    "Mul": _each(operator.mul),
    "Neg": _each(operator.neg),
    "Not": _each(operator.not_),
    "Or": _each(lambda a, b: bool(a) or bool(b)),
    "Pow": _each(operator.pow),
    "Range": _range,
    "ReduceMax": _reduce(torch.sym_max),
    "ReduceMin": _reduce(torch.sym_min),
    "ReduceProd": _reduce(operator.mul),
    "ReduceSum": _reduce(operator.add),
    "Reshape": _reshape,
    "Round": _each(round),
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _each(_sqrt),
    "Squeeze": _squeeze,
    "Sub": _each(operator.sub),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _each(_where),
}


def number_values(network: Network) -> set[str]:
    """Which values of a network are numbers, and not tensors: lengths, and what is made of them."""
    possible = _possible(network)
    wanted: set[str] = set()  # what some shape is made of
    for node in reversed(network.nodes):
        as_numbers = operators()[node.operator].numbers
        for place, name in enumerate(node.inputs):
            passed = node.operator in SIZES and node.operator not in LENGTHS
            if place in as_numbers or (passed and wanted.intersection(node.outputs)):
                wanted.add(name)
    found: set[str] = set()
    for node in network.nodes:
        made = node.operator in LENGTHS or all(
            name in found or (name in possible and name in network.constants)
            for name in node.inputs
            if name
        )
        needed = node.operator not in FILLING or wanted.intersection(node.outputs)
        if made and needed and possible.issuperset(name for name in node.outputs if name):
            found.update(name for name in node.outputs if name)
    return found


def _possible(network: Network) -> set[str]:
    """The values that could be computed with numbers; constants among them."""
    found = {
        name
        for name, value in network.constants.items()
        if value.dtype.kind in "iub" or value.size <= FEW
    }
    for node in network.nodes:
        known = node.operator in SIZES and found.issuperset(name for name in node.inputs if name)
        if node.operator in LENGTHS or known:
            found.update(name for name in node.outputs if name)
    return found
