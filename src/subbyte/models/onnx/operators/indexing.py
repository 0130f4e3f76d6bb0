"""What takes values out of tensors and puts them in, by their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table, numbers


def _gather(node: Node, x: Tensor, indices: Any) -> Tensor:
    """The entries of an axis at some places."""
    axis = node.get("axis", 0)
    if not isinstance(indices, Tensor):
        return x.select(axis, indices)
    if indices.dim() == 0:
        return x.index_select(axis, _positive(indices.reshape(1), x, axis)).squeeze(axis)
    flat = x.index_select(axis, _positive(indices.reshape(-1), x, axis))
    if indices.dim() == 1:
        return flat
    axis = axis % x.dim()
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """For each place, the entry of an axis that the indices say."""
    axis = node.get("axis", 0)
    return x.gather(axis, _positive(indices, x, axis))


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Entries by their places along several axes."""
    batched, depth = node.get("batch_dims", 0), indices.shape[-1]
    places: list[Any] = []
    for axis in range(batched):
        shape = [1] * (indices.dim() - 1)
        shape[axis] = -1
        places.append(torch.arange(x.shape[axis], device=x.device).reshape(shape))
    places += [_positive(part, x, batched + axis) for axis, part in enumerate(indices.unbind(-1))]
    assert len(places) == batched + depth
    return x[tuple(places)]


def _slice_(
    node: Node,
    x: Tensor,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Tensor:
    """A part of each axis; before opset 10 its ends are attributes."""
    first = list(node.get("starts")) if starts is None else starts.reshape(-1).tolist()
    last = list(node.get("ends")) if ends is None else ends.reshape(-1).tolist()
    given = node.get("axes") if axes is None else axes.reshape(-1).tolist()
    along = range(len(first)) if given is None else given
    by = [1] * len(first) if steps is None else steps.reshape(-1).tolist()
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        x = _sliced(x, axis % x.dim(), start, end, step)
    return x


def _sliced(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step < 0:  # PyTorch has no steps back: the axis is turned around
        length = x.shape[axis]
        start, end = (n + length if n < 0 else n for n in (start, end))
        start, end = min(start, length - 1), max(end, -1)
        x, start, end, step = x.flip(axis), length - 1 - start, length - 1 - end, -step
    whole = isinstance(start, int) and isinstance(end, int) and start == 0 and end >= 2**31 - 1
    if whole and step == 1:
        return x
    chosen: list[Any] = [slice(None)] * axis + [slice(start, end, step)]
    return x[tuple(chosen)]


def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """With some entries of an axis replaced, or added to."""
    axis, how = node.get("axis", 0), node.get("reduction", "none")
    places = _positive(indices, x, axis)
    if how == "none":
        return x.scatter(axis, places, updates)
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, places, updates, kinds[how], include_self=True)


def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """With entries replaced by their places along several axes."""
    how = node.get("reduction", "none")
    if how not in ("none", "add"):
        raise SubbyteError(f"the node {node} scatters by '{how}': none and add are known")
    places = [_positive(part, x, axis) for axis, part in enumerate(indices.unbind(-1))]
    return x.index_put(tuple(places), updates, accumulate=how == "add")


def _patch(node: Node, x: Tensor, updates: Tensor) -> Tensor:
    """With a part replaced: along each axis but the first from a place on. `patches` makes it."""
    return _patched(x, updates, 1, list(node.get("box")))


def _patched(x: Tensor, updates: Tensor, axis: int, box: list[tuple[int, int]]) -> Tensor:
    if not box:
        return updates
    start, length = box[0]
    behind = x.shape[axis] - start - length
    middle = _patched(x.narrow(axis, start, length), updates, axis + 1, box[1:])
    parts = [x.narrow(axis, 0, start)] * (start > 0) + [middle]
    parts += [x.narrow(axis, start + length, behind)] * (behind > 0)
    return torch.cat(parts, axis) if len(parts) > 1 else middle


def _one_hot(node: Node, indices: Tensor, depth: np.ndarray, values: Tensor) -> Tensor:
    """1 at each index along a new axis, else 0, or other values."""
    axis, count = node.get("axis", -1), int(depth.reshape(-1)[0])
    indices = indices.to(torch.int64)
    indices = torch.where(indices < 0, indices + count, indices)
    places = torch.arange(count, device=indices.device)
    hot = indices.unsqueeze(-1) == places
    result = torch.where(hot, values[1], values[0])
    return result if axis == -1 else result.movedim(-1, axis)


def _non_zero(node: Node, x: Tensor) -> Tensor:
    """The places of all values that are not zero, of which there are any number."""
    raise SubbyteError(
        f"the node {node} gives as many values as the image has of something: export the model "
        "without its post-processing"
    )


def _trilu(node: Node, x: Tensor, k: np.ndarray | None = None) -> Tensor:
    """The upper or lower triangle."""
    diagonal = 0 if k is None else int(k.reshape(-1)[0])
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


def _reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first values of an axis turned around, as many as each image has."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    moved = x.movedim((batch, time), (0, 1))
    places = torch.arange(moved.shape[1], device=x.device)[None]
    turned = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    index = turned.reshape([*turned.shape, *[1] * (x.dim() - 2)]).expand(moved.shape)
    return moved.gather(1, index).movedim((0, 1), (batch, time))


def _positive(indices: Tensor, x: Tensor, axis: int) -> Tensor:
    """Indices that count from the front."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + x.shape[axis], indices)


OPERATORS: Table = {
    "Gather": Operator(_gather, scalar=True),
    "GatherElements": Operator(_gather_elements),
    "GatherND": Operator(_gather_nd),
    "NonZero": Operator(_non_zero),
    "OneHot": Operator(_one_hot, numbers(1)),
    "Patch": Operator(_patch),
    "ReverseSequence": Operator(_reverse_sequence),
    "Scatter": Operator(_scatter_elements),
    "ScatterElements": Operator(_scatter_elements),
    "ScatterND": Operator(_scatter_nd),
    "Slice": Operator(_slice_, numbers(1, 2, 3, 4)),
    "Trilu": Operator(_trilu, numbers(1)),
}
