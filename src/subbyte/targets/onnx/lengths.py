"""Arithmetic with lengths, such as that of the batch, which PyTorch's exporter does not write."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import FLOAT, opset21

op: Any = opset21


def _shifted(length: Any, places: Any) -> Any:
    """`length << places`."""
    return op.Mul(length, 2**places if isinstance(places, int) else op.Pow(2, places))


def _and(one: Any, other: Any) -> Any:
    return op.BitwiseAnd(one, other)


def _or(one: Any, other: Any) -> Any:
    return op.BitwiseOr(one, other)


def _root(length: Any) -> Any:
    return op.Sqrt(op.Cast(length, to=FLOAT.dtype))


OF_LENGTHS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.lshift: _shifted,
    operator.and_: _and,
    operator.or_: _or,
    torch.sym_sqrt: _root,
}
