"""Padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table, numbers

MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(
    node: Node,
    x: Tensor,
    pads: np.ndarray | None = None,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
) -> Tensor:
    """Padding with a value, the edge, or what is near; before opset 11 it is an attribute."""
    given = list(node.get("pads")) if pads is None else pads.reshape(-1).tolist()
    along = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes.reshape(-1)]
    count = len(along)
    before = dict(zip(along, given[:count], strict=True))
    behind = dict(zip(along, given[count:], strict=True))
    filling: Any = node.get("value", 0.0) if value is None else value.reshape(-1)[0]
    mode = MODES[node.get("mode", "constant")]
    padded = [a for a in along if _some(before[a]) or _some(behind[a])]
    if not padded:
        return x
    if mode != "constant":
        return _copied(x, {a: (before[a], behind[a]) for a in padded}, mode)
    sides: list[Any] = []
    for axis in reversed(range(min(padded), x.dim())):
        sides += [before.get(axis, 0), behind.get(axis, 0)]
    return F.pad(x, sides, value=filling)


def _copied(x: Tensor, sides: dict[int, tuple[Any, Any]], mode: str) -> Tensor:
    """Padded with values of the tensor: PyTorch pads the last axes behind two others."""
    first = min(sides)
    if x.dim() in (3, 4) and first >= 2:
        given = [n for axis in reversed(range(2, x.dim())) for n in sides.get(axis, (0, 0))]
        return F.pad(x, given, mode=mode)
    for axis, (start, end) in sides.items():
        moved = x.movedim(axis, -1)
        flat = F.pad(moved.reshape(1, -1, moved.shape[-1]), [start, end], mode=mode)
        x = flat.reshape([*moved.shape[:-1], flat.shape[-1]]).movedim(-1, axis)
    return x


def _some(length: Any) -> bool:
    return not (isinstance(length, int) and length == 0)


OPERATORS: Table = {"Pad": Operator(_pad, numbers(1, 2, 3))}
