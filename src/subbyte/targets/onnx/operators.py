"""Operators of our own that exist to be exported: each becomes exactly the ONNX nodes we want.

They also run in PyTorch, where they compute what the runtimes compute.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset21 as op

from subbyte.numerics.qspec import along

ORT, OV = "onnxruntime", "openvino"
TARGETS = (ORT, OV)
ONE_SCALE = -1  # `axis` of a grid with one scale for the whole tensor


class Style(StrEnum):
    """How a grid is written; all of them compute the same.

    INTEGERS: values are clipped to the grid's levels behind the rounding. POOL: the same, with a
    MaxPool of 1×1 behind it. FLOATS: clipped before the rounding. LEAKY: the same, with a LeakyRelu
    of slope 1 before it. SHIFT: as FLOATS, the zero point subtracted behind the dequantization.
    """

    INTEGERS = "integers"
    POOL = "pool"
    FLOATS = "floats"
    LEAKY = "leaky"
    SHIFT = "shift"


class Kind(StrEnum):
    """How the levels of a product's factor are held, which as integers are −128 … 127.

    UINT8: with the zero point 128. INT8: with the zero point 0. BARE: int8 without a zero point.
    """

    UINT8 = "uint8"
    INT8 = "int8"
    BARE = "bare"


@torch.library.custom_op("subbyte::qdq", mutates_args=())
def _qdq(
    x: torch.Tensor,
    scale: float,
    zero_point: int,
    low: int,
    high: int,
    style: str,
    highest: torch.Tensor | None = None,
) -> torch.Tensor:
    values = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high)
    if highest is None:
        return values
    return torch.minimum(values, (highest.to(x.dtype) - zero_point) * scale)


@torch.library.custom_op("subbyte::dequantize", mutates_args=())
def _dequantize(
    q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, axis: int
) -> torch.Tensor:
    channel = None if axis == ONE_SCALE else axis
    levels = q.to(torch.float32)
    if zero_point is not None:
        levels = levels - along(zero_point.to(torch.float32), q, channel)
    return levels * along(scale, q, channel)


@torch.library.custom_op("subbyte::to_levels", mutates_args=())
def _to_levels(x: torch.Tensor, scale: float, low: int, high: int, kind: str) -> torch.Tensor:
    levels = (x / scale).round().clamp(low, high)
    return (levels + 128).to(torch.uint8) if kind == Kind.UINT8 else levels.to(torch.int8)


@torch.library.custom_op("subbyte::from_levels", mutates_args=())
def _from_levels(q: torch.Tensor, scale: float, kind: str) -> torch.Tensor:
    return (q.to(torch.float32) - (128 if kind == Kind.UINT8 else 0)) * scale


@torch.library.custom_op("subbyte::linear", mutates_args=())
def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = x @ weight
    return product if bias is None else product + bias


@torch.library.custom_op("subbyte::patches", mutates_args=())
def _patches(
    x: torch.Tensor,
    scale: float,
    zero_point: int,
    sides: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> torch.Tensor:
    x = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    _, *lengths, _ = _patched(x, sides, stride, [0, 0], dilation)
    (rows, columns), (down, right) = lengths, stride
    taken = []
    for i, j in np.ndindex(*sides):
        corner = x[:, :, i * dilation[0] :, j * dilation[1] :]
        taken.append(corner[:, :, : rows * down : down, : columns * right : right])
    return torch.cat(taken, 1).permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("subbyte::global_average_pool", mutates_args=())
def _global_average_pool(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3), keepdim=True)


@torch.library.custom_op("subbyte::flatten", mutates_args=())
def _flatten(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).clone()


# What torch.export needs: the outputs' shapes and types, without computing them.
_qdq.register_fake(lambda x, *_: torch.empty_like(x))
_dequantize.register_fake(lambda q, *_: torch.empty_like(q, dtype=torch.float32))
_to_levels.register_fake(
    lambda x, _scale, _low, _high, kind: torch.empty_like(
        x, dtype=torch.uint8 if kind == Kind.UINT8 else torch.int8
    )
)
_from_levels.register_fake(lambda q, *_: torch.empty_like(q, dtype=torch.float32))
_linear.register_fake(lambda x, weight, _: x @ weight)
_patches.register_fake(
    lambda x, _scale, _zero_point, *settings: x.new_empty(_patched(x, *settings))
)
_global_average_pool.register_fake(lambda x: x.new_empty((*x.shape[:2], 1, 1)))
_flatten.register_fake(lambda x: x.new_empty((x.shape[0], x.shape[1:].numel())))


def _patched(
    x: torch.Tensor, sides: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Any, ...]:
    """The shape of all patches of `x` that a convolution reads: [N, height, width, values]."""
    lengths = [
        (n + 2 * around - step * (side - 1) - 1) // by + 1
        for n, side, by, around, step in zip(
            x.shape[2:], sides, stride, padding, dilation, strict=True
        )
    ]
    return (x.shape[0], *lengths, x.shape[1] * sides[0] * sides[1])


def _constant(value: float | int, kind: int) -> Any:
    return op.Constant(value=onnx.helper.make_tensor("value", kind, [], [value]))


def _onnx_qdq(
    x: Any, scale: float, zero_point: int, low: int, high: int, style: str, highest: Any = None
) -> Any:
    kind, scale = onnx.TensorProto.UINT8, float(np.float32(scale))
    factor, zero = _constant(scale, onnx.TensorProto.FLOAT), _constant(zero_point, kind)
    clips, integers = (low, high) != (0, 255), style in (Style.INTEGERS, Style.POOL)
    if style == Style.LEAKY:
        x = op.LeakyRelu(x, alpha=1.0)
    if clips and not integers:
        ends = [
            _constant((end - zero_point) * scale, onnx.TensorProto.FLOAT) for end in (low, high)
        ]
        x = op.Clip(x, *ends)
    q = op.QuantizeLinear(x, factor, zero)
    if clips and integers:
        q = op.Clip(q, _constant(low, kind), _constant(high, kind))
    if highest is not None:
        q = op.Min(q, highest)
    if style == Style.POOL:
        q = op.MaxPool(q, kernel_shape=[1, 1])[0]
    if style == Style.SHIFT:
        shift = _constant(-zero_point * scale, onnx.TensorProto.FLOAT)
        return op.Add(op.DequantizeLinear(q, factor, _constant(0, kind)), shift)
    return op.DequantizeLinear(q, factor, zero)


def _onnx_dequantize(q: Any, scale: Any, zero_point: Any = None, axis: int = 0) -> Any:
    if axis < 0:
        return op.DequantizeLinear(q, scale, zero_point)
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)


def _onnx_to_levels(x: Any, scale: float, low: int, high: int, kind: str) -> Any:
    scale = float(np.float32(scale))
    if (low, high) != (-128, 127):
        ends = [_constant(end * scale, onnx.TensorProto.FLOAT) for end in (low, high)]
        x = op.Clip(x, *ends)
    factor = _constant(scale, onnx.TensorProto.FLOAT)
    if kind == Kind.BARE:
        return op.QuantizeLinear(x, factor, output_dtype=onnx.TensorProto.INT8)
    return op.QuantizeLinear(x, factor, _zero_point(kind))


def _onnx_from_levels(q: Any, scale: float, kind: str) -> Any:
    factor = _constant(float(np.float32(scale)), onnx.TensorProto.FLOAT)
    if kind == Kind.BARE:
        return op.DequantizeLinear(q, factor)
    return op.DequantizeLinear(q, factor, _zero_point(kind))


def _zero_point(kind: str) -> Any:
    if kind == Kind.UINT8:
        return _constant(128, onnx.TensorProto.UINT8)
    return _constant(0, onnx.TensorProto.INT8)


def _onnx_linear(x: Any, weight: Any, bias: Any = None) -> Any:
    # Not a Gemm, nor an Add that would be fused to one: ONNX Runtime has an integer kernel for the
    # product of uint8 and int8 with a float result only as a MatMul of its own.
    product = op.MatMul(x, weight)
    return product if bias is None else op.Sum(product, bias)


def _onnx_patches(
    x: Any,
    scale: float,
    zero_point: int,
    sides: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Any:
    factor = _constant(float(np.float32(scale)), onnx.TensorProto.FLOAT)
    zero = _constant(zero_point, onnx.TensorProto.UINT8)
    q = op.Transpose(op.QuantizeLinear(x, factor, zero), perm=[0, 2, 3, 1])
    if any(padding):
        q = op.Pad(q, _integers([0, *padding, 0, 0, *padding, 0]), zero)
    taken = []
    for i, j in np.ndindex(*sides):
        begin = [i * dilation[0], j * dilation[1]]
        # From the end, as lengths are those of the example alone; 0 would be the beginning.
        left = [(side - 1) * step for side, step in zip(sides, dilation, strict=True)]
        end = [a - b or 2**31 for a, b in zip(begin, left, strict=True)]
        taken.append(
            op.Slice(q, _integers(begin), _integers(end), _integers([1, 2]), _integers(stride))
        )
    q = op.Concat(*taken, axis=3) if len(taken) > 1 else taken[0]
    return op.DequantizeLinear(q, factor, zero)


def _integers(values: list[int]) -> Any:
    return op.Constant(value_ints=values)


def _onnx_global_average_pool(x: Any) -> Any:
    return op.GlobalAveragePool(x)


def _onnx_flatten(x: Any) -> Any:
    return op.Flatten(x, axis=1)


OPS = torch.ops.subbyte
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    OPS.qdq.default: _onnx_qdq,
    OPS.dequantize.default: _onnx_dequantize,
    OPS.to_levels.default: _onnx_to_levels,
    OPS.from_levels.default: _onnx_from_levels,
    OPS.linear.default: _onnx_linear,
    OPS.patches.default: _onnx_patches,
    OPS.global_average_pool.default: _onnx_global_average_pool,
    OPS.flatten.default: _onnx_flatten,
}
