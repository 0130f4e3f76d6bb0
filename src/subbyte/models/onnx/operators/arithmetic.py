"""Arithmetic, value by value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float32,
    12: torch.int32,
    13: torch.int64,
    16: torch.float32,
}  # ONNX's numbers for types; every float is float32 here


def _divide(node: Node, left: Any, right: Any) -> Tensor:
    """Division, of whole numbers towards zero."""
    del node
    kinds = [x.dtype for x in (left, right) if isinstance(x, Tensor)]
    if all(kind in WHOLE for kind in kinds):
        return torch.div(left, right, rounding_mode="trunc")
    quotient: Tensor = left / right
    return quotient


def _modulo(node: Node, left: Any, right: Any) -> Tensor:
    """The remainder, with the sign of the divisor, or with `fmod` that of the dividend."""
    return (torch.fmod if node.get("fmod", 0) else torch.remainder)(left, right)


def _power(node: Node, base: Any, exponent: Any) -> Tensor:
    """A power, of the base's type."""
    del node
    result: Tensor = base**exponent
    return result.to(base.dtype) if isinstance(base, Tensor) else result


def _where(node: Node, condition: Any, left: Any, right: Any) -> Tensor:
    """The left value where the condition holds, else the right one."""
    del node
    return torch.where(condition, left, right)


def _cast(node: Node, x: Tensor) -> Tensor:
    """Another type."""
    kind = node.get("to")
    if kind not in TYPES:
        raise SubbyteError(f"the node {node} makes values of a type that PyTorch lacks")
    return x.to(TYPES[kind])


def _cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """The type of another tensor."""
    del node
    return x.to(like.dtype)


def _is_inf(node: Node, x: Tensor) -> Tensor:
    """Whether a value is infinite."""
    positive = (x == torch.inf) if node.get("detect_positive", 1) else torch.zeros_like(x).bool()
    negative = (x == -torch.inf) if node.get("detect_negative", 1) else torch.zeros_like(x).bool()
    return positive | negative


def _mean(node: Node, *operands: Tensor) -> Tensor:
    """The mean of some tensors."""
    del node
    total: Tensor = reduce(operator.add, operands)
    return total / len(operands)


def _each(function: Callable[..., Any]) -> Operator:
    """An operator of one tensor."""

    def call(node: Node, x: Tensor) -> Any:
        del node
        return function(x)

    return Operator(call)


def _both(function: Callable[..., Any]) -> Operator:
    """An operator of two operands, one of which may be a number."""

    def call(node: Node, left: Any, right: Any) -> Any:
        del node
        return function(left, right)

    return Operator(call, scalar=True)


def _all(function: Callable[..., Any]) -> Operator:
    """An operator of any number of tensors."""

    def call(node: Node, *operands: Any) -> Any:
        del node
        return reduce(function, operands)

    return Operator(call)


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return Operator(lambda node, left, right: function(left, right))


OPERATORS: Table = {
    "Abs": _each(torch.abs),
    "Acos": _each(torch.acos),
    "Add": _both(operator.add),
    "And": _logical(torch.logical_and),
    "Asin": _each(torch.asin),
    "Atan": _each(torch.atan),
    "BitwiseNot": _each(torch.bitwise_not),
    "Cast": Operator(_cast),
    "CastLike": Operator(_cast_like),
    "Ceil": _each(torch.ceil),
    "Cos": _each(torch.cos),
    "Cosh": _each(torch.cosh),
    "Div": Operator(_divide, scalar=True),
    "Equal": _both(operator.eq),
    "Erf": _each(torch.erf),
    "Exp": _each(torch.exp),
    "Floor": _each(torch.floor),
    "Greater": _both(operator.gt),
    "GreaterOrEqual": _both(operator.ge),
    "IsInf": Operator(_is_inf),
    "IsNaN": _each(torch.isnan),
    "Less": _both(operator.lt),
    "LessOrEqual": _both(operator.le),
    "Log": _each(torch.log),
    "Max": _all(torch.maximum),
    "Mean": Operator(_mean),
    "Min": _all(torch.minimum),
    "Mod": Operator(_modulo, scalar=True),
    "Mul": _both(operator.mul),
    "Neg": _each(torch.neg),
    "Not": _each(torch.logical_not),
    "Or": _logical(torch.logical_or),
    "Pow": Operator(_power, scalar=True),
    "Reciprocal": _each(torch.reciprocal),
    "Round": _each(torch.round),
    "Sign": _each(torch.sign),
    "Sin": _each(torch.sin),
    "Sinh": _each(torch.sinh),
    "Sqrt": _each(torch.sqrt),
    "Sub": _both(operator.sub),
    "Sum": _all(operator.add),
    "Tan": _each(torch.tan),
    "Where": Operator(_where),
    "Xor": _logical(torch.logical_xor),
}
