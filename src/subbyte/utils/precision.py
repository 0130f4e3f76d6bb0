"""Floats of other types in float32."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def as_float32(value: Any) -> Any:
    """Tensors of floats in float32, wherever they are in lists, tuples and dictionaries."""
    return pytree.tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, value
    )
