"""Fourier transforms: one kind of operator for all of PyTorch's functions of `torch.fft`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

A = torch.ops.aten


@cache
def as_transforms() -> dict[Any, Callable[..., Any]]:
    """How `torch.export` writes functions of `torch.fft`, `stft` and `istft`.

    Real to complex, complex to complex and complex to real along whole dimensions, which are the
    three operators of `FOURIER`.
    """
    names = [name for name in dir(A) if name.startswith("fft_")] + ["stft", "istft"]
    operators = [getattr(A, name) for name in names]
    known = torch.export.default_decompositions()
    found = [getattr(operator, o) for operator in operators for o in operator.overloads()]
    return {operator: known[operator] for operator in found if operator in known}
