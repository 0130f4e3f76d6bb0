"""Pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.convolution import padded, pads_of
from subbyte.models.onnx.operators.table import Operator, Table

MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
GLOBAL_AVERAGE: dict[int, Any] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def _max_pool(node: Node, x: Tensor) -> Tensor:
    """The largest of each window; padding does not count."""
    if len([name for name in node.outputs if name]) > 1:
        raise SubbyteError(
            f"the node {node} gives the places of the largest values: export the model without "
            "unpooling"
        )
    kernel, strides, dilations, pads = _windows(node, x)
    if any(2 * pad > size for pad, size in zip(pads, kernel * 2, strict=True)):
        x, padding = F.pad(x, _sides(pads), value=-torch.inf), [0] * len(kernel)
    else:
        x, padding = padded(x, pads, -torch.inf)
    ceil = bool(node.get("ceil_mode", 0))
    result: Tensor = MAX[len(kernel)](x, kernel, strides, padding, dilations, ceil)
    return _begun(result, x, strides, pads) if ceil and not any(padding) else result


def _average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window; padding counts if `count_include_pad` says so."""
    kernel, strides, dilations, pads = _windows(node, x)
    rank, counted = len(kernel), bool(node.get("count_include_pad", 0))
    if any(d != 1 for d in dilations):
        raise SubbyteError(f"the node {node} has dilations, which PyTorch's pooling has not")
    ceil = bool(node.get("ceil_mode", 0))
    even = pads[:rank] == pads[rank:]
    fits = all(2 * pad <= size for pad, size in zip(pads, kernel * 2, strict=True))
    if even and fits:
        result: Tensor = AVERAGE[rank](x, kernel, strides, pads[:rank], ceil, counted)
        return result
    summed = F.pad(x, _sides(pads))
    mean: Tensor = AVERAGE[rank](summed, kernel, strides, 0, ceil)
    mean = _begun(mean, summed, strides, pads) if ceil else mean
    if counted:
        return mean
    ones = F.pad(torch.ones_like(x[:1, :1]), _sides(pads))
    share: Tensor = AVERAGE[rank](ones, kernel, strides, 0, ceil)
    return mean / (_begun(share, ones, strides, pads) if ceil else share)


def _global_average(node: Node, x: Tensor) -> Tensor:
    """The mean of each channel of each image."""
    del node
    rank = x.dim() - 2
    mean: Tensor = GLOBAL_AVERAGE[rank](x, [1] * rank)
    return mean


def _global_max(node: Node, x: Tensor) -> Tensor:
    """The largest of each channel of each image."""
    del node
    return torch.amax(x, list(range(2, x.dim())), keepdim=True)


def _lp_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    kernel, strides, dilations, pads = _windows(node, x)
    if any(d != 1 for d in dilations):
        raise SubbyteError(f"the node {node} has dilations, which PyTorch's pooling has not")
    p, rank, ceil = node.get("p", 2), len(kernel), bool(node.get("ceil_mode", 0))
    powers = F.pad(x.abs() ** p, _sides(pads))
    count = 1
    for length in kernel:
        count *= length
    if ceil:  # the mean of a window that ends beyond the image is of what is within
        size = powers.shape[2:]
        more = [-(k - n) % s for n, k, s in zip(size, kernel, strides, strict=True)]
        powers = F.pad(powers, _sides([0] * rank + more))
    mean = AVERAGE[rank](powers, kernel, strides, 0)
    norm: Tensor = (mean * count) ** (1 / p)
    return norm if not ceil else _begun(norm, powers, strides, [0] * rank + more)


def _global_lp(node: Node, x: Tensor) -> Tensor:
    """The p-norm of each channel of each image."""
    dims = list(range(2, x.dim()))
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), dims, keepdim=True)
    return norm


def _roi_align(node: Node, x: Tensor, rois: Tensor, image: Tensor) -> Tensor:
    """Windows of some boxes, resampled to one size."""
    from torchvision.ops import roi_align as align

    mode = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    if node.get("mode", "avg") != "avg":
        raise SubbyteError(f"the node {node} takes the largest value of a bin, and not the mean")
    boxes = torch.cat([image.to(x.dtype).unsqueeze(1), rois], 1)
    size = (node.get("output_height", 1), node.get("output_width", 1))
    ratio = node.get("sampling_ratio", 0) or -1
    aligned = node.get("coordinate_transformation_mode", mode) == "half_pixel"
    result: Tensor = align(x, boxes, size, node.get("spatial_scale", 1.0), ratio, aligned)
    return result


def _windows(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[Any]]:
    """Kernel, strides, dilations and pads of a pooling."""
    kernel = list(node.get("kernel_shape"))
    strides = list(node.get("strides", [1] * len(kernel)))
    dilations = list(node.get("dilations", [1] * len(kernel)))
    return kernel, strides, dilations, pads_of(node, x.shape[2:], kernel, strides, dilations)


def _begun(result: Tensor, x: Tensor, strides: list[int], pads: list[Any]) -> Tensor:
    """What a pooling gives, without the windows that begin in the padding behind the image.

    Args:
        result: What it gives of `x`.
        x: The image with its padding.
        strides: From one window to the next.
        pads: All starts, then all ends.
    """
    for axis, (stride, end) in enumerate(zip(strides, pads[len(strides) :], strict=True), 2):
        most = -(-(x.shape[axis] - end) // stride)
        if result.shape[axis] > most:
            result = result.narrow(axis, 0, most)
    return result


def _sides(pads: list[Any]) -> list[Any]:
    rank = len(pads) // 2
    return [n for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])]


OPERATORS: Table = {
    "AveragePool": Operator(_average_pool),
    "GlobalAveragePool": Operator(_global_average),
    "GlobalLpPool": Operator(_global_lp),
    "GlobalMaxPool": Operator(_global_max),
    "LpPool": Operator(_lp_pool),
    "MaxPool": Operator(_max_pool),
    "RoiAlign": Operator(_roi_align),
}
