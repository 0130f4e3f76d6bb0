"""What a captured graph has that no ONNX file can hold, found before anything is quantized."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from subbyte.errors import SubbyteError
from subbyte.graph.operators import CONV, FLOAT_LAYERS, FOURIER, A, module_path

POOLS = {
    A.adaptive_max_pool1d.default,
    A.adaptive_max_pool2d.default,
    A.adaptive_max_pool3d.default,
}
LONGEST = 2048  # Fourier transform, which is written as a product with a matrix


class UnwritableError(SubbyteError):
    """A model that can be captured and not be written."""


def check_writable(graph: fx.Graph) -> None:
    """Raise `UnwritableError`, with the place, for the first node that ONNX cannot hold."""
    for node in graph.nodes:
        told = _groups(node) or _windows(node) or _transform(node) or _rounding(node)
        if told:
            raise UnwritableError(f"the model cannot be written as ONNX{_place(node)}: {told}")


def _groups(node: fx.Node) -> str:
    """A kernel for each image of the batch, as groups, whose number is the batch's."""
    if node.target not in CONV | set(FLOAT_LAYERS):
        return ""
    if not any(isinstance(number, fx.Node) for number in _after_tensors(node)):
        return ""
    return (
        "a convolution whose number of groups depends on the size of the batch, which ONNX fixes "
        "(a kernel for each image): compute it as a matrix product of unfolded images, or mix the "
        "results of several convolutions"
    )


def _windows(node: fx.Node) -> str:
    """Adaptive maximum pooling over windows of several sizes."""
    if node.target not in POOLS:
        return ""
    given: Any = node.args[1]
    outputs = [given] if isinstance(given, int) else list(given)
    sides = node.args[0].meta["val"].shape[-len(outputs) :]  # type: ignore[union-attr]
    fixed = all(isinstance(side, int) for side in sides)
    if fixed and all(side % n == 0 for side, n in zip(sides, outputs, strict=True)):
        return ""
    size, wanted = (" × ".join(map(str, numbers)) for numbers in (sides, outputs))
    return (
        f"adaptive maximum pooling of {size} to {wanted}, whose windows are of several sizes: give "
        "images whose feature map is a multiple of it, or use MaxPool"
    )


def _transform(node: fx.Node) -> str:
    """A Fourier transform along a dimension of any length, or of a large one."""
    if node.target not in FOURIER:
        return ""
    values: Any = [n.meta["val"] for n in (node.args[0], node)]  # type: ignore[union-attr]
    dims: Any = node.args[1]
    lengths = [max(value.shape[dim] for value in values) for dim in dims if _is_fixed(values, dim)]
    if len(lengths) < len(dims):
        return (
            "a Fourier transform along a dimension of any length, such as the batch: transform "
            "along dimensions of the image, and give all images one size"
        )
    if max(lengths) <= LONGEST:
        return ""
    return (
        f"a Fourier transform of {max(lengths)} values, which is written as a product with a "
        f"matrix: transform {LONGEST} values at most, or outside of the model"
    )


def _rounding(node: fx.Node) -> str:
    """A length, such as that of the batch, that code divides and rounds."""
    if node.target is not round:
        return ""
    return "round() of a length of any size, which ONNX lacks: divide lengths with //"


def _is_fixed(values: list[torch.Tensor], dim: int) -> bool:
    return all(isinstance(value.shape[dim], int) for value in values)


def _after_tensors(node: fx.Node) -> list[Any]:
    """The arguments of a convolution behind its input, weight and bias."""
    return [*node.args[3:], *node.kwargs.values()]


def _place(node: fx.Node) -> str:
    """The last line of the user's own code, or else the module."""
    found = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
    theirs = ("site-packages", str(torch.__path__[0]))
    lines = [line for line in found if not any(part in line[0] for part in theirs)]
    if lines:
        return f" at {lines[-1][0]}:{lines[-1][1]}"
    path = module_path(node)
    return f" in the module '{path}'" if path else ""
