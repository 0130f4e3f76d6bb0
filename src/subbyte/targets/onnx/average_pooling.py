"""Average pooling as ONNX has it: what PyTorch divides by is not what runtimes divide by.

With `ceil_mode` the last window may reach over the edge, and PyTorch divides by what of it lies
within the padded tensor. ONNX Runtime's integer kernel divides by the whole window, and OpenVINO by
another number where there is padding. ONNX lacks `divisor_override`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnxscript import opset21 as op

from subbyte.errors import SubbyteError

A = torch.ops.aten


@dataclass(frozen=True)
class _Pooling:
    """How windows stand in one dimension: numbers of PyTorch's, and `over`, which it works out.

    Attributes:
        kernel: Length of a window.
        stride: From one to the next.
        padding: Zeros at both ends.
        over: By how much the last window reaches over the padding's end.
    """

    kernel: int
    stride: int
    padding: int
    over: int = 0


def _average_pool(
    dims: int,
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Nodes for an average pooling of so many dimensions, whose windows need no `ceil_mode`."""
    rank, lengths = len(x.shape), list(x.shape)[-dims:]
    given = [_each(numbers, dims) for numbers in (kernel_size, stride or kernel_size, padding)]
    found = [
        _Pooling(k, s, p, _over(length, k, s, p) if ceil_mode else 0)
        for length, k, s, p in zip(lengths, *given, strict=True)
    ]
    before, after = [d.padding for d in found], [d.padding for d in found]
    partial, padded = any(d.over for d in found), any(before)
    whole = divisor_override is not None
    if padded and (whole or (partial and count_include_pad)):
        x, before, after = _padded(x, rank, before, after), [0] * dims, [0] * dims
    after = [n + d.over for n, d in zip(after, found, strict=True)]
    if whole and partial:
        x, after = _padded(x, rank, before, after), [0] * dims
    counts = count_include_pad and not partial and any(before)
    batched = rank > dims + 1
    y = op.AveragePool(
        x if batched else op.Unsqueeze(x, _whole([0])),
        kernel_shape=[d.kernel for d in found],
        strides=[d.stride for d in found],
        pads=[*before, *after],
        count_include_pad=int(counts),
    )
    y = y if batched else op.Squeeze(y, _whole([0]))
    if divisor_override is None:
        return y
    factor = math.prod(d.kernel for d in found) / divisor_override
    return op.Mul(y, op.Constant(value_float=float(np.float32(factor))))


def _each(numbers: Sequence[int], dims: int) -> list[int]:
    return [*numbers] if len(numbers) == dims else [numbers[0]] * dims


def _over(length: Any, kernel: int, stride: int, padding: int) -> int:
    """By how much the last window reaches over the end; PyTorch has none that begins beyond it."""
    if not isinstance(length, int):
        raise SubbyteError("average pooling with ceil_mode needs a height and width that are known")
    count = -(-(length + 2 * padding - kernel) // stride) + 1
    if (count - 1) * stride >= length + padding:
        count -= 1
    return max(0, (count - 1) * stride + kernel - length - 2 * padding)


def _padded(x: Any, rank: int, before: Sequence[int], after: Sequence[int]) -> Any:
    """A tensor of so many dimensions with zeros around the last of them."""
    rest = [0] * (rank - len(before))
    return op.Pad(x, _whole([*rest, *before, *rest, *after]))


def _whole(numbers: Sequence[int]) -> Any:
    return op.Constant(value_ints=list(numbers))


def _of(dims: int) -> Callable[..., Any]:
    def translate(x: Any, *args: Any, **given: Any) -> Any:
        return _average_pool(dims, x, *args, **given)

    return translate


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    A.avg_pool1d.default: _of(1),
    A.avg_pool2d.default: _of(2),
    A.avg_pool3d.default: _of(3),
}
