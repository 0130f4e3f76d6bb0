"""Antialiased resizing, which is linear, as products with a matrix for each side.

ONNX has `antialias` in its Resize, but OpenVINO resizes without it and says nothing, and no form of
Resize has the weights that PyTorch takes where corners are aligned as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21 as op

from subbyte.errors import SubbyteError

A = torch.ops.aten


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
