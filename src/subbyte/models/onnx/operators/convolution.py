"""Convolutions, transposed or not, with all the ways to pad them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution; padding that differs from side to side is a padding of its own."""
    rank = x.dim() - 2
    kernel = list(weight.shape[2:])
    strides = list(node.get("strides", [1] * rank))
    dilations = list(node.get("dilations", [1] * rank))
    x, padding = padded(x, pads_of(node, x.shape[2:], kernel, strides, dilations), 0.0)
    groups = node.get("group", 1)
    return CONV[rank](x, weight, bias, strides, padding, dilations, groups)


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution; what its padding cuts off unevenly is sliced off."""
    rank = x.dim() - 2
    kernel = list(weight.shape[2:])
    strides = list(node.get("strides", [1] * rank))
    dilations = list(node.get("dilations", [1] * rank))
    extra = list(node.get("output_padding", [0] * rank))
    pads = _cut_off(node, x, kernel, strides, dilations, extra)
    starts, ends = pads[:rank], pads[rank:]
    padding = [max(0, min(start, end)) for start, end in zip(starts, ends, strict=True)]
    # PyTorch wants output padding below stride or dilation; a smaller end is the same.
    grown = [p - end + more for p, end, more in zip(padding, ends, extra, strict=True)]
    ok = all(0 <= g < max(s, d) for g, s, d in zip(grown, strides, dilations, strict=True))
    if ok and starts == padding:
        return TRANSPOSED[rank](
            x, weight, bias, strides, padding, grown, node.get("group", 1), dilations
        )
    whole = TRANSPOSED[rank](x, weight, None, strides, 0, 0, node.get("group", 1), dilations)
    grow: list[int] = []
    for axis in range(rank):
        grow = [-starts[axis], extra[axis] - ends[axis], *grow]
    whole = F.pad(whole, grow)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * rank)


def pads_of(
    node: Node,
    sizes: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[Any]:
    """How much is padded: all starts, then all ends.

    Args:
        node: Its `auto_pad` or `pads` says it.
        sizes: Height and width.
        kernel: Those of the kernel.
        strides: By how much the kernel goes on.
        dilations: How far its elements are apart.
    """
    rank, auto = len(kernel), node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [0] * 2 * rank
    if auto == "NOTSET":
        return list(node.get("pads", [0] * 2 * rank))
    starts, ends = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        span = (length - 1) * dilation + 1
        total = max(0, ((size + stride - 1) // stride - 1) * stride + span - size)
        less, more = total // 2, total - total // 2
        starts.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return [*starts, *ends]


def padded(x: Tensor, pads: Sequence[Any], value: float) -> tuple[Tensor, list[Any]]:
    """The tensor, and the padding that is left to the operator: none, if both sides differ.

    Args:
        x: The tensor.
        pads: All starts, then all ends.
        value: What it is padded with, if here.
    """
    rank = len(pads) // 2
    starts, ends = list(pads[:rank]), list(pads[rank:])
    if starts == ends and all(start >= 0 for start in starts):
        return x, starts
    sides = [n for axis in reversed(range(rank)) for n in (starts[axis], ends[axis])]
    return F.pad(x, sides, value=value), [0] * rank


def _cut_off(
    node: Node,
    x: Tensor,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    extra: list[int],
) -> list[Any]:
    """What a transposed convolution cuts off: all starts, then all ends."""
    rank, auto, wanted = len(kernel), node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is None and auto in ("NOTSET", "VALID"):
        return list(node.get("pads", [0] * 2 * rank)) if auto == "NOTSET" else [0] * 2 * rank
    sizes = x.shape[2:]
    lengths = [s * stride for s, stride in zip(sizes, strides, strict=True)]
    lengths = lengths if wanted is None else list(wanted)[-rank:]
    starts, ends = [], []
    for i in range(rank):
        span = (kernel[i] - 1) * dilations[i] + 1
        total = strides[i] * (sizes[i] - 1) + extra[i] + span - lengths[i]
        less, more = total // 2, total - total // 2
        starts.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return [*starts, *ends]


OPERATORS: Table = {
    "Conv": Operator(_conv, weight=1),
    "ConvTranspose": Operator(_conv_transpose, weight=1),
}
