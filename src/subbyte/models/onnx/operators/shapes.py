"""What gives tensors other shapes, puts them together and takes them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table, numbers


def _reshape(node: Node, x: Tensor, shape: np.ndarray) -> Tensor:
    """Another shape: 0 keeps a length, unless `allowzero`, and -1 is what is left."""
    lengths = shape.reshape(-1).tolist()
    if not node.get("allowzero", 0):
        zero = [isinstance(n, int) and n == 0 for n in lengths]
        lengths = [x.shape[i] if zero[i] else n for i, n in enumerate(lengths)]
    return x.reshape(lengths)


def _flatten(node: Node, x: Tensor) -> Tensor:
    """A matrix: the axes before one, and the others."""
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1:
        return torch.flatten(x, 1)
    if axis == 0:
        return x.reshape([1, -1])
    x = x.unsqueeze(axis) if axis == x.dim() else torch.flatten(x, axis)
    return torch.flatten(x, 0, axis - 1)


def _transpose(node: Node, x: Tensor) -> Tensor:
    """Axes in another order."""
    return x.permute(list(node.get("perm", reversed(range(x.dim())))))


def _squeeze(node: Node, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    """Without some axes of length 1, or without all of them."""
    given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
    if given is None:
        given = [i for i, n in enumerate(x.shape) if isinstance(n, int) and n == 1]
    return x.squeeze([axis % x.dim() for axis in given])


def _unsqueeze(node: Node, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    """With more axes of length 1."""
    given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
    rank = x.dim() + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


def _concat(node: Node, *parts: Tensor) -> Tensor:
    """One behind the other along an axis."""
    return torch.cat(parts, node.get("axis"))


def _split(node: Node, x: Tensor, sizes: np.ndarray | None = None) -> tuple[Tensor, ...]:
    """Parts along an axis, of given lengths or alike."""
    axis = node.get("axis", 0)
    given = node.get("split") if sizes is None else sizes.reshape(-1).tolist()
    if given is not None:
        return tuple(torch.split(x, list(given), axis))
    count = node.get("num_outputs", len(node.outputs))
    return tuple(torch.split(x, -(-x.shape[axis] // count), axis))


def _expand(node: Node, x: Tensor, shape: np.ndarray) -> Tensor:
    """Spread to a shape that may be larger or, where it says 1, not."""
    del node
    wanted = shape.reshape(-1).tolist()
    rank = max(len(wanted), x.dim())
    wanted = [1] * (rank - len(wanted)) + wanted
    lengths = [1] * (rank - x.dim()) + list(x.shape)
    one = [isinstance(n, int) and n == 1 for n in wanted]
    return x.expand([lengths[i] if one[i] else n for i, n in enumerate(wanted)])


def _tile(node: Node, x: Tensor, repeats: np.ndarray) -> Tensor:
    """Repeated along each axis."""
    del node
    return x.repeat(repeats.reshape(-1).tolist())


def _shape(node: Node, x: Any) -> np.ndarray:
    """The lengths of a tensor, as numbers."""
    lengths = list(x.shape)[node.get("start", 0) : node.get("end")]
    return _numbers(lengths)


def _size(node: Node, x: Any) -> np.ndarray:
    """How many values a tensor has."""
    del node
    count: Any = 1
    for length in x.shape:
        count = count * length
    return _numbers([count]).reshape(())


def _numbers(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Channels become pixels."""
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, block, block, channels // block**2, height, width)
    x = x.permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Pixels become channels."""
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, block)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * block**2, height // block, width // block)


def _constant_of_shape(node: Node, shape: np.ndarray) -> Tensor:
    """One value everywhere."""
    value = node.get("value")
    filling = 0.0 if value is None else value.reshape(-1)[0].item()
    kind = torch.float32 if value is None else torch.from_numpy(value).dtype
    return torch.full(shape.reshape(-1).tolist(), filling, dtype=kind)


def _arange(node: Node, start: np.ndarray, end: np.ndarray, step: np.ndarray) -> Tensor:
    """Numbers from one up to another."""
    del node
    first, last, by = (array.reshape(-1)[0] for array in (start, end, step))
    return torch.arange(first, last, by)


def _eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = x.shape
    k = node.get("k", 0)
    distance: Tensor = torch.arange(columns) - torch.arange(rows)[:, None]
    return torch.where(distance == k, 1.0, 0.0)


def _identity(node: Node, x: Any, *others: Any) -> Any:
    """The value itself: what has an effect in training alone, too."""
    del node, others
    return x


OPERATORS: Table = {
    "Concat": Operator(_concat),
    "ConstantOfShape": Operator(_constant_of_shape, numbers(0)),
    "DepthToSpace": Operator(_depth_to_space),
    "Dropout": Operator(_identity, numbers(1, 2)),
    "Expand": Operator(_expand, numbers(1)),
    "EyeLike": Operator(_eye_like),
    "Flatten": Operator(_flatten),
    "Identity": Operator(_identity),
    "Range": Operator(_arange, numbers(0, 1, 2)),
    "Reshape": Operator(_reshape, numbers(1)),
    "Shape": Operator(_shape),
    "Size": Operator(_size),
    "SpaceToDepth": Operator(_space_to_depth),
    "Split": Operator(_split, numbers(1)),
    "Squeeze": Operator(_squeeze, numbers(1)),
    "Tile": Operator(_tile, numbers(1)),
    "Transpose": Operator(_transpose),
    "Unsqueeze": Operator(_unsqueeze, numbers(1)),
}
