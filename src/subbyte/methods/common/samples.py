"""Samples of a convolution or linear layer: the rows (im2col) that its weight multiplies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.calibration.observe import channel_rows
from subbyte.graph.operators import CONV, LINEAR, TRANSPOSED


@dataclass(frozen=True)
class Geometry:
    """How a layer reads its input.

    A transposed convolution is one of stride 1 with the kernel turned round, over its input with
    zeros in between.

    Attributes:
        groups: Of channels that do not mix.
        kernel: One number a spatial dimension; empty for a linear layer, as the following are.
        stride: Likewise.
        padding: Likewise, at both ends; below 0 the input is cut there.
        dilation: Likewise.
        axis: The weight's dimension of outputs.
        spread: Of a transposed convolution the distance of neighbours of its input; else empty.
    """

    groups: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    axis: int = 0
    spread: tuple[int, ...] = ()


def geometry_of(node: fx.Node, weight: torch.Tensor) -> Geometry:
    """The geometry of a convolution, a linear layer or a product with a constant matrix."""
    if node.target in LINEAR:
        return Geometry(1)
    if node.target in TRANSPOSED:
        return _transposed(node, tuple(weight.shape[2:]))
    if node.target not in CONV:
        return Geometry(1, axis=1)
    kernel = tuple(weight.shape[2:])
    names = ("stride", "padding", "dilation", "groups")
    given: dict[str, Any] = dict(zip(names, node.args[3:], strict=False)) | dict(node.kwargs)
    dilation = _each(given.get("dilation", 1), kernel)
    padding = given.get("padding", 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        ends = tuple((total // 2, total - total // 2) for total in totals)
    else:
        ends = tuple((p, p) for p in _each(0 if padding == "valid" else padding, kernel))
    stride = _each(given.get("stride", 1), kernel)
    return Geometry(int(given.get("groups", 1)), kernel, stride, ends, dilation)


def _transposed(node: fx.Node, kernel: tuple[int, ...]) -> Geometry:
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    given: dict[str, Any] = dict(zip(names, node.args[3:], strict=False)) | dict(node.kwargs)
    padding, more = (_each(given.get(name, 0), kernel) for name in names[1:3])
    stride, dilation = (_each(given.get(name, 1), kernel) for name in ("stride", "dilation"))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    ends = tuple((r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True))
    once = (1,) * len(kernel)
    return Geometry(int(given.get("groups", 1)), kernel, once, ends, dilation, spread=stride)


def as_matrices(weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A weight as matrices (groups, outputs of a group, inputs of a group)."""
    if geometry.spread:
        turned = weight.flip(list(range(2, weight.dim())))
        by_group = turned.reshape(geometry.groups, -1, *weight.shape[1:]).transpose(1, 2)
        return by_group.reshape(*by_group.shape[:2], -1)
    each = channel_rows(weight, geometry.axis)
    return each.reshape(geometry.groups, -1, each.shape[1])


def as_weight(matrices: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The inverse of `as_matrices`.

    Args:
        matrices: (groups, outputs, inputs).
        weight: Has the shape that comes out.
        geometry: How the layer reads its input.
    """
    if geometry.spread:
        each = len(weight) // geometry.groups
        by_group = matrices.reshape(*matrices.shape[:2], each, *weight.shape[2:]).transpose(1, 2)
        return by_group.reshape(weight.shape).flip(list(range(2, weight.dim())))
    shape = weight.movedim(geometry.axis, 0).shape
    return matrices.reshape(shape).movedim(0, geometry.axis)


def positions(outputs: torch.Tensor, geometry: Geometry) -> int:
    """How many rows a layer's outputs are of."""
    channels = outputs.shape[_channels(outputs, geometry)]
    return outputs.numel() // max(channels, 1)


def output_rows(outputs: torch.Tensor, chosen: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Some rows of a layer's outputs, (rows, groups, outputs of a group).

    Args:
        outputs: As the layer gives them, images first.
        chosen: The rows' numbers: places within an image, image after image.
        geometry: How the layer reads its input.
    """
    moved = outputs.movedim(_channels(outputs, geometry), -1)
    rows = moved[torch.unravel_index(chosen, moved.shape[:-1])]
    return _grouped(rows, geometry)


def input_rows(inputs: torch.Tensor, chosen: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """What the layer multiplies with its weight for some rows, (rows, groups, inputs of a group).

    Args:
        inputs: As the layer reads them, images first.
        chosen: The rows' numbers: places within an image of outputs, image after image.
        geometry: How the layer reads its input.
    """
    if not geometry.kernel:
        rows = inputs.reshape(-1, inputs.shape[-1])[chosen]
        return rows[:, None]
    x = inputs if inputs.dim() == len(geometry.kernel) + 2 else inputs[None]
    x = _spread(x, geometry.spread)
    return _grouped(_windows(x, chosen, geometry), geometry)


def _windows(x: torch.Tensor, chosen: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """What the kernel covers at some places, (rows, channels, *kernel), with 0 beyond the edges."""
    padding, axes = geometry.padding, range(len(geometry.kernel))
    sizes = []
    for length, kernel, stride, ends, dilation in zip(
        x.shape[2:], geometry.kernel, geometry.stride, padding, geometry.dilation, strict=True
    ):
        sizes.append((length + sum(ends) - dilation * (kernel - 1) - 1) // stride + 1)
    image, *starts = torch.unravel_index(chosen, (len(x), *sizes))
    at = [image.reshape(-1, *[1] * len(sizes))]
    beyond = torch.zeros_like(at[0], dtype=torch.bool)
    for axis in axes:
        offsets = torch.arange(geometry.kernel[axis], device=x.device) * geometry.dilation[axis]
        places = (starts[axis] * geometry.stride[axis] - padding[axis][0])[:, None] + offsets
        places = places.reshape(len(chosen), *[-1 if other == axis else 1 for other in axes])
        beyond = beyond | (places < 0) | (places >= x.shape[2 + axis])
        at.append(places.clamp(0, x.shape[2 + axis] - 1))
    found = x.movedim(1, -1)[tuple(at)]
    return found.masked_fill_(beyond[..., None], 0).movedim(-1, 1)


def _grouped(rows: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(rows, channels, …) as (rows, groups, values of a group); there may be no row."""
    return rows.reshape(len(rows), geometry.groups, rows.shape[1:].numel() // geometry.groups)


def _spread(x: torch.Tensor, distances: tuple[int, ...]) -> torch.Tensor:
    """`x` with its values so far apart in each of its last dimensions, and zeros between them."""
    if all(distance == 1 for distance in distances):
        return x
    pairs = list(zip(x.shape[2:], distances, strict=True))
    wide = x.new_zeros(*x.shape[:2], *[max(0, (n - 1) * d + 1) for n, d in pairs])
    at: tuple[Any, ...] = (..., *[slice(None, None, d) for _, d in pairs])
    wide[at] = x
    return wide


def mean_squares(outputs: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The mean square over the channels of each row of a layer's outputs, or of their gradients."""
    return outputs.square().mean(_channels(outputs, geometry)).reshape(-1)


def _channels(outputs: torch.Tensor, geometry: Geometry) -> int:
    """The dimension of the channels of a layer's outputs."""
    if not geometry.kernel:
        return outputs.dim() - 1
    return outputs.dim() - 1 - len(geometry.kernel)


def _each(value: int | list[int] | tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """One number a spatial dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * len(kernel) if len(values) == 1 else values


def rows_wanted(inputs: int, images: int, least: int, share: int) -> int:
    """How many rows to take of each image.

    Args:
        inputs: Of the layer, in a group.
        images: How many there are.
        least: So many of each at least.
        share: So many of all images for each input at least.
    """
    return max(least, math.ceil(share * inputs / max(images, 1)))
