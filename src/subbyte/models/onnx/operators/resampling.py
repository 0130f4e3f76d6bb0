"""Resizing and sampling of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table, numbers

MODES = {"nearest": "nearest", "linear": "linear", "cubic": "cubic", "bilinear": "linear"}
NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda places: torch.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: torch.floor(places + 0.5),
}
GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def _resize(
    node: Node,
    x: Tensor,
    roi: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
) -> Tensor:
    """Resizing by scales or to sizes."""
    if node.opset < 11:  # the second operand was scales
        scales, roi, mode = roi, None, "asymmetric"
    else:
        mode = node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize":
        raise SubbyteError(f"the node {node} crops as it resizes (tf_crop_and_resize)")
    axes = [axis % x.dim() for axis in node.get("axes", range(x.dim()))]
    factors = _by_axis(x, axes, scales, 1.0)
    lengths: list[Any] = _by_axis(x, axes, sizes, None)
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise SubbyteError(f"the node {node} keeps the ratio of sides as it resizes")
    for axis, factor in enumerate(factors):
        if lengths[axis] is None:
            lengths[axis] = _times(x.shape[axis], factor)
        elif sizes is not None:
            factors[axis] = None
    return _resized(node, x, lengths, factors, mode)


def _times(length: Any, factor: Any) -> Any:
    """A length times a factor, rounded down: in float32, as runtimes do, so that 10 · 0.7 is 7."""
    if not isinstance(factor, float | int) or not isinstance(length, int):
        return math.floor(length * factor)
    return length if factor == 1 else math.floor(np.float32(length) * np.float32(factor))


def _upsample(node: Node, x: Tensor, scales: np.ndarray | None = None) -> Tensor:
    """What resizing was called before opset 10."""
    if scales is None:
        scales = np.array(node.get("scales"), dtype=object)
    return _resize(replace(node, opset=min(node.opset, 10)), x, scales)


def _by_axis(x: Tensor, axes: list[int], given: np.ndarray | None, other: Any) -> list[Any]:
    found = [other] * x.dim()
    if given is not None and given.size:
        for axis, value in zip(axes, given.reshape(-1).tolist(), strict=True):
            found[axis] = value
    return found


def _resized(node: Node, x: Tensor, lengths: list[Any], factors: list[Any], mode: str) -> Tensor:
    kind = MODES[node.get("mode", "nearest")]
    changed = [
        axis
        for axis in range(x.dim())
        if not (isinstance(lengths[axis], int) and lengths[axis] == x.shape[axis])
    ]
    if not changed:
        return x
    if not node.get("antialias", 0) or kind == "nearest":
        whole = _by_pytorch(node, x, lengths, factors, mode, kind, min(changed))
        if whole is not None:
            return whole
    for axis in changed:
        places = _places(mode, x.shape[axis], lengths[axis], factors[axis], x.device)
        scale = lengths[axis] / x.shape[axis] if factors[axis] is None else factors[axis]
        x = _sampled(node, x, axis, places, kind, scale)
    return x


def _by_pytorch(
    node: Node, x: Tensor, lengths: list[Any], factors: list[Any], mode: str, kind: str, first: int
) -> Tensor | None:
    """By PyTorch's own operator, where it computes the same; else `None`."""
    if first < 2 or x.dim() not in (3, 4, 5):
        return None
    sizes = lengths[2:]
    exact = [
        factor is None or (isinstance(n, int) and isinstance(s, int) and s * factor == n)
        for s, n, factor in zip(x.shape[2:], sizes, factors[2:], strict=True)
    ]
    if not all(exact):
        return None
    if kind == "nearest":
        rounding = node.get("nearest_mode", "round_prefer_floor") if node.opset >= 11 else "floor"
        up = all(
            isinstance(n, int) and isinstance(s, int) and n % s == 0
            for s, n in zip(x.shape[2:], sizes, strict=True)
        )
        # Whole factors: every rule but "asymmetric, round" repeats each pixel.
        half = mode in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
        repeats = up and (
            (mode == "asymmetric" and rounding == "floor") or (half and "round" in rounding)
        )
        if repeats or (mode == "asymmetric" and rounding == "floor"):
            return F.interpolate(x, size=sizes, mode="nearest")
        return None
    if kind == "linear":
        name = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
    elif x.dim() == 4 and node.get("cubic_coeff_a", -0.75) == -0.75:
        name = "bicubic"
    else:
        return None
    if node.get("exclude_outside", 0) and kind == "cubic":
        return None
    if mode == "align_corners":
        if any(isinstance(n, int) and n == 1 for n in sizes):
            return None
        return F.interpolate(x, size=sizes, mode=name, align_corners=True)
    one = any(isinstance(n, int) and n == 1 for n in sizes)
    if mode in ("half_pixel", "half_pixel_symmetric") or (mode == "pytorch_half_pixel" and not one):
        return F.interpolate(x, size=sizes, mode=name, align_corners=False)
    return None


def _places(mode: str, length: Any, wanted: Any, factor: Any, device: torch.device) -> Any:
    """Where each pixel of the result lies among those before, as a number with a fraction."""
    at: Any = torch.arange(wanted, device=device, dtype=torch.float32)
    scale = wanted / length if factor is None else factor
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * ((length - 1) / (wanted - 1)) if wanted != 1 else at * 0
    if mode == "pytorch_half_pixel" and wanted == 1:
        return at * 0
    if mode == "half_pixel_symmetric":
        adjustment = wanted / (length * scale)
        offset = length / 2 * (1 - adjustment)
        return (at + 0.5) / scale - 0.5 + offset
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    return (at + 0.5) / scale - 0.5


def _sampled(node: Node, x: Tensor, axis: int, places: Tensor, kind: str, scale: Any) -> Tensor:
    """One axis resampled at some places, which are 1 / scale apart."""
    last = x.shape[axis] - 1
    if kind == "nearest":
        rounding = node.get("nearest_mode", "round_prefer_floor") if node.opset >= 11 else "floor"
        rounded = NEAREST[rounding](places)
        return x.index_select(axis, rounded.to(torch.int64).clamp(0, last))
    base = torch.floor(places)
    share = places - base
    if node.get("antialias", 0) and scale < 1:
        weights = _antialiased(share, kind, node.get("cubic_coeff_a", -0.75), scale)
    elif kind == "linear":
        weights = {0: 1 - share, 1: share}
    else:
        weights = _cubic(share, node.get("cubic_coeff_a", -0.75))
    outside = bool(node.get("exclude_outside", 0)) and (kind == "cubic" or node.get("antialias", 0))
    if outside:
        inside = {o: ((base + o >= 0) & (base + o <= last)).float() for o in weights}
        weights = {o: w * inside[o] for o, w in weights.items()}
        total = sum(weights.values())
        weights = {o: w / total for o, w in weights.items()}
    shape = [1] * x.dim()
    shape[axis] = -1
    result: Any = 0
    for offset, weight in weights.items():
        index = (base + offset).to(torch.int64).clamp(0, last)
        result = result + x.index_select(axis, index) * weight.reshape(shape)
    return torch.as_tensor(result)


def _cubic(share: Tensor, a: float) -> dict[int, Tensor]:
    """The weights of four pixels around a place (Keys 1981)."""
    return {
        -1: _far(share + 1, a),
        0: _near(share, a),
        1: _near(1 - share, a),
        2: _far(2 - share, a),
    }


def _near(d: Tensor, a: float) -> Tensor:
    """The weight of a pixel up to 1 away."""
    return ((a + 2) * d - (a + 3)) * d * d + 1


def _far(d: Tensor, a: float) -> Tensor:
    """That of one from 1 to 2 away."""
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


def _antialiased(share: Tensor, kind: str, a: float, scale: float) -> dict[int, Tensor]:
    """The weights of as many pixels around a place as a smaller image has one pixel for."""
    first = math.floor((-1 if kind == "linear" else -2) / scale) + 1
    weights = {}
    for offset in range(first, 2 - first):
        d = (offset - share).abs() * scale
        if kind == "linear":
            weights[offset] = (1 - d).clamp_min(0)
        else:
            beyond = torch.where(d < 2, _far(d, a), torch.zeros_like(d))
            weights[offset] = torch.where(d <= 1, _near(d, a), beyond)
    total = sum(weights.values())
    return {offset: weight / total for offset, weight in weights.items()}


def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Values at places that a grid says."""
    mode = node.get("mode", "linear")
    padding, corners = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    return F.grid_sample(x, grid, GRID_MODES.get(mode, mode), padding, corners)


def _affine_grid(node: Node, theta: Tensor, size: np.ndarray) -> Tensor:
    """The grid of an affine map."""
    return F.affine_grid(theta, size.reshape(-1).tolist(), bool(node.get("align_corners", 0)))


OPERATORS: Table = {
    "AffineGrid": Operator(_affine_grid, numbers(1)),
    "GridSample": Operator(_grid_sample),
    "Resize": Operator(_resize, numbers(1, 2, 3)),
    "Upsample": Operator(_upsample, numbers(1)),
}
