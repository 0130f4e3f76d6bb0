"""Resizing that ONNX or a runtime lacks: as products with a matrix, or by the pixels' numbers.

ONNX has `antialias` in its Resize, but OpenVINO resizes without it and says nothing, and no form of
Resize has the weights that PyTorch takes where corners are aligned as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import fx

from subbyte.errors import SubbyteError

A = torch.ops.aten
NEAREST = {A.upsample_nearest1d.vec, A.upsample_nearest2d.vec, A.upsample_nearest3d.vec}


def resizing_matrix(
    operator: Callable[..., Any],
    before: int,
    after: int,
    align_corners: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """The weights [before, after] with which an operator resizes one side of an image.

    Args:
        operator: One of ATen's that resize both sides of images.
        before: The side's length in pixels.
        after: That of the result.
        align_corners: As the operator takes it.
        scale: Likewise, of this side.
    """
    lines = torch.eye(before)[:, None, None]  # images of one line each, white in one pixel
    resized: torch.Tensor = operator(lines, [1, after], align_corners, None, scale)
    return resized.reshape(before, after)


def nearest_pixels(before: int, after: int, scale: float | None = None) -> torch.Tensor:
    """Which pixel PyTorch takes for each of the result, (after,).

    Args:
        before: The side's length in pixels.
        after: That of the result.
        scale: The factor that a user gave; `None`: the length was given.
    """
    numbers = torch.arange(before, dtype=torch.float32)[None, None]
    taken: torch.Tensor = A.upsample_nearest1d.default(numbers, [after], scale)
    return taken.flatten().long()


def is_as_in_pytorch(before: int, after: int, scale: float | None = None) -> bool:
    """Whether runtimes, which divide by the scale, take the same pixels.

    Args:
        before: The side's length in pixels.
        after: That of the result.
        scale: The factor that a user gave; `None`: the length was given.
    """
    factor = np.float32(after) / np.float32(before) if scale is None else np.float32(scale)
    pixels = np.floor(np.arange(after, dtype=np.float32) / factor)
    same = np.minimum(pixels, before - 1) == nearest_pixels(before, after, scale).numpy()
    return bool(same.all())


def write_nearest(module: fx.GraphModule) -> None:
    """Choose pixels by their numbers where a resizing by factors would take others, in place.

    Args:
        module: A region's graph.
    """
    for node in list(module.graph.nodes):
        factors = node.args[2] if node.target in NEAREST and len(node.args) > 2 else None
        if not factors:
            continue
        before, after = (x.meta["val"].shape[-len(factors) :] for x in (node.args[0], node))
        sides = list(zip(before, after, factors, strict=True))
        if not all(isinstance(n, int) and isinstance(m, int) for n, m, _ in sides):
            continue
        if not all(is_as_in_pytorch(*side) for side in sides):
            _choose(module, node, sides)


def _choose(module: fx.GraphModule, node: fx.Node, sides: list[tuple[int, int, float]]) -> None:
    value = node.args[0]
    with module.graph.inserting_before(node):
        for axis, side in enumerate(sides, -len(sides)):
            name = f"{node.name}_pixels_{-axis}"
            module.register_buffer(name, nearest_pixels(*side))
            pixels = module.graph.get_attr(name)
            value = module.graph.call_function(A.index_select.default, (value, axis, pixels))
    value.meta = dict(node.meta)  # type: ignore[union-attr]
    node.replace_all_uses_with(value)  # type: ignore[arg-type]
    module.graph.erase_node(node)


def _translation(operator: Callable[..., Any]) -> Callable[..., Any]:
    def resize(
        x: Any,
        output_size: Any,
        align_corners: bool,
        scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Any:
        lengths = [*(x.shape or [None, None])[-2:], *output_size]
        if not all(isinstance(length, int) for length in lengths):
            raise SubbyteError(
                "antialiased resizing cannot be written for images whose size varies; resize "
                "without antialias, or outside of the model"
            )
        height, width, high, wide = lengths
        rows = resizing_matrix(operator, height, high, align_corners, scales_h)
        columns = resizing_matrix(operator, width, wide, align_corners, scales_w)
        x = op.MatMul(x, _constant(columns))
        return op.MatMul(_constant(rows.t()), x)

    return resize


def _constant(matrix: torch.Tensor) -> Any:
    tensor: Any = ir.tensor(matrix.contiguous().numpy())
    return op.Constant(value=tensor)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator: _translation(operator)
    for operator in (A._upsample_bilinear2d_aa.default, A._upsample_bicubic2d_aa.default)
}
