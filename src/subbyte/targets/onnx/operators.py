"""Our own operators, of which the exported graph that all targets begin with is made.

They also run in PyTorch, where they compute what the runtimes compute. Some become nodes of our own
domain, which rewrites read and at last write in ONNX's operators; the others exactly the nodes that
we want, where an exporter's own decompositions would make runtimes stumble.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import opset21 as op
from onnxscript import values

from subbyte.numerics.qspec import along
from subbyte.targets.onnx.domain import DOMAIN, LINEAR, QDQ

ONE_SCALE = -1  # `axis` of integers with one scale for the whole tensor


@torch.library.custom_op("subbyte::quantize_dequantize", mutates_args=())
def _quantize_dequantize(
    x: torch.Tensor, scale: float, zero_point: int, low: int, high: int, only_for: str
) -> torch.Tensor:
    del only_for
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high)


@torch.library.custom_op("subbyte::dequantize", mutates_args=())
def _dequantize(
    q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, axis: int
) -> torch.Tensor:
    channel = None if axis == ONE_SCALE else axis
    integers = q.to(torch.float32)
    if zero_point is not None:
        integers = integers - along(zero_point.to(torch.float32), q, channel)
    return integers * along(scale, q, channel)


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
_quantize_dequantize.register_fake(lambda x, *_: torch.empty_like(x))
_dequantize.register_fake(lambda q, *_: torch.empty_like(q, dtype=torch.float32))
_linear.register_fake(lambda x, weight, _: x @ weight)
_global_average_pool.register_fake(lambda x: x.new_empty((*x.shape[:2], 1, 1)))
_flatten.register_fake(lambda x: x.new_empty((x.shape[0], x.shape[1:].numel())))


def _own(name: str, inputs: list[str], optional: list[str], **attributes: str) -> values.Op:
    """An operator of our own domain, of float tensors; attributes: their kinds by name."""
    kinds = dict.fromkeys(inputs, OpSchema.FormalParameterOption.Single)
    kinds |= dict.fromkeys(optional, OpSchema.FormalParameterOption.Optional)
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(key, "T", param_option=kinds[key]) for key in kinds],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            OpSchema.Attribute(key, getattr(OpSchema.AttrType, kind))
            for key, kind in attributes.items()
        ],
    )
    return values.Op(values.Opset(DOMAIN, 1), name, schema)


_QDQ = _own(
    QDQ, ["x"], [], scale="FLOAT", zero_point="INT", low="INT", high="INT", only_for="STRING"
)
_LINEAR = _own(LINEAR, ["x", "weight"], ["bias"])


def _onnx_quantize_dequantize(
    x: Any, scale: float, zero_point: int, low: int, high: int, only_for: str
) -> Any:
    return _QDQ(x, scale=scale, zero_point=zero_point, low=low, high=high, only_for=only_for)


def _onnx_dequantize(q: Any, scale: Any, zero_point: Any = None, axis: int = 0) -> Any:
    if axis < 0:
        return op.DequantizeLinear(q, scale, zero_point)
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)


def _onnx_linear(x: Any, weight: Any, bias: Any = None) -> Any:
    return _LINEAR(x, weight) if bias is None else _LINEAR(x, weight, bias)


def _onnx_global_average_pool(x: Any) -> Any:
    return op.GlobalAveragePool(x)


def _onnx_flatten(x: Any) -> Any:
    return op.Flatten(x, axis=1)


OPS = torch.ops.subbyte
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    OPS.quantize_dequantize.default: _onnx_quantize_dequantize,
    OPS.dequantize.default: _onnx_dequantize,
    OPS.linear.default: _onnx_linear,
    OPS.global_average_pool.default: _onnx_global_average_pool,
    OPS.flatten.default: _onnx_flatten,
}
