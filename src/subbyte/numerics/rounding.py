"""Rounding to integers and back to float, as PyTorch's own kernels do it and several times faster.

Operation by operation the kernels compute the same, to the last bit; tests hold it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from subbyte.numerics.qspec import QSpec

VALUES_AT_ONCE = 2**18  # which stay in a processor's cache


@torch.no_grad()
def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    spec: QSpec,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """(clamp(round(x / scale) + zero_point, low, high) − zero_point) · scale, in x's shape.

    Args:
        x: float32.
        scale: float32, of a shape that can be multiplied with `x`.
        zero_point: int32, the same shape.
        spec: The integers that there are.
        out: Where the result goes; `None`: a new tensor.
    """
    zero = zero_point.to(x.dtype)
    if out is None and scale.numel() == 1 and x.numel() > VALUES_AT_ONCE:
        y = torch.empty_like(x)
        in_cache(lambda some, its: fake_quantize(some, scale, zero_point, spec, its), x, y)
        return y
    integers = torch.mul(x, scale.reciprocal(), out=out).round_().add_(zero)
    return integers.clamp_(spec.low, spec.high).sub_(zero).mul_(scale)


def in_cache(function: Callable[..., object], *tensors: torch.Tensor) -> None:
    """Call a function of several steps, which go value by value, with some values at a time.

    So values are read from memory once. Elsewhere than on a CPU all come at once.

    Args:
        function: Takes the same values of each tensor.
        tensors: Of one shape.
    """
    if not all(x.is_contiguous() and x.device.type == "cpu" for x in tensors):
        function(*tensors)
        return
    for some in zip(*(torch.split(x.view(-1), VALUES_AT_ONCE) for x in tensors), strict=True):
        function(*some)


@torch.no_grad()
def row_errors(
    values: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    spec: QSpec,
    p: float,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Σ factor · |Q(x) − x|^p over each row.

    Args:
        values: (rows, n), float32.
        scale: (rows,).
        zero_point: (rows,).
        spec: The integers that values become.
        p: The power of an error, above 0.
        factors: What an error in each value counts, (rows, n); `None`: all count 1.

    Returns:
        (rows,).
    """
    count = max(1, VALUES_AT_ONCE // max(values.shape[1], 1))
    buffer = torch.empty_like(values[:count])
    found = []
    for start in range(0, len(values), count):
        rows = slice(start, start + count)
        x = values[rows]
        error = fake_quantize(
            x, scale[rows, None], zero_point[rows, None], spec, out=buffer[: len(x)]
        ).sub_(x)
        error = error.square_() if p == 2 else error.abs_().pow_(p)
        found.append((error if factors is None else error.mul_(factors[rows])).sum(1))
    return torch.cat(found)
