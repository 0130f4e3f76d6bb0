"""Operators of our own that exist to be exported: each becomes exactly the ONNX nodes we want.

They also run in PyTorch, where they compute what the runtimes compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset21 as op

from subbyte.grid.spec import along

ONE_SCALE = -1  # `axis` of a grid with one scale for the whole tensor


@torch.library.custom_op("subbyte::qdq", mutates_args=())
def _qdq(x: torch.Tensor, scale: float, zero_point: int, high: int, barrier: bool) -> torch.Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, high)


@torch.library.custom_op("subbyte::dequantize", mutates_args=())
def _dequantize(
    q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, axis: int
) -> torch.Tensor:
    channel = None if axis == ONE_SCALE else axis
    levels = q.to(torch.float32)
    if zero_point is not None:
        levels = levels - along(zero_point.to(torch.float32), q, channel)
    return levels * along(scale, q, channel)


@torch.library.custom_op("subbyte::linear", mutates_args=())
def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = x @ weight
    return product if bias is None else product + bias


@torch.library.custom_op("subbyte::global_average_pool", mutates_args=())
def _global_average_pool(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3), keepdim=True)


@torch.library.custom_op("subbyte::flatten", mutates_args=())
def _flatten(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).clone()


# What torch.export needs: the outputs' shapes and types, without computing them.
_qdq.register_fake(lambda x, *_: torch.empty_like(x))
_dequantize.register_fake(lambda q, *_: torch.empty_like(q, dtype=torch.float32))
_linear.register_fake(lambda x, weight, _: x @ weight)
_global_average_pool.register_fake(lambda x: x.new_empty((*x.shape[:2], 1, 1)))
_flatten.register_fake(lambda x: x.new_empty((x.shape[0], x.shape[1:].numel())))


def _constant(value: float | int, kind: int) -> Any:
    return op.Constant(value=onnx.helper.make_tensor("value", kind, [], [value]))


def _onnx_qdq(x: Any, scale: float, zero_point: int, high: int, barrier: bool) -> Any:
    kind = onnx.TensorProto.UINT8
    factor = _constant(float(np.float32(scale)), onnx.TensorProto.FLOAT)
    zero = _constant(zero_point, kind)
    q = op.QuantizeLinear(x, factor, zero)
    if high != 255:
        # uint8 saturates at 255, not at the grid's end; a Clip on the integers keeps the integer
        # kernels around it, one on the floats before it would not.
        q = op.Clip(q, _constant(0, kind), _constant(high, kind))
    if barrier:
        q = op.MaxPool(q, kernel_shape=[1, 1])[0]
    return op.DequantizeLinear(q, factor, zero)


def _onnx_dequantize(q: Any, scale: Any, zero_point: Any = None, axis: int = 0) -> Any:
    if axis < 0:
        return op.DequantizeLinear(q, scale, zero_point)
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)


def _onnx_linear(x: Any, weight: Any, bias: Any = None) -> Any:
    # Not a Gemm, nor an Add that would be fused to one: ONNX Runtime has an integer kernel for the
    # product of uint8 and int8 with a float result only as a MatMul of its own.
    product = op.MatMul(x, weight)
    return product if bias is None else op.Sum(product, bias)


def _onnx_global_average_pool(x: Any) -> Any:
    return op.GlobalAveragePool(x)


def _onnx_flatten(x: Any) -> Any:
    return op.Flatten(x, axis=1)


OPS = torch.ops.subbyte
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    OPS.qdq.default: _onnx_qdq,
    OPS.dequantize.default: _onnx_dequantize,
    OPS.linear.default: _onnx_linear,
    OPS.global_average_pool.default: _onnx_global_average_pool,
    OPS.flatten.default: _onnx_flatten,
}
