"""Fourier transforms, which are linear, as products with a matrix for each dimension.

OpenVINO computes ONNX's DFT of real values along another dimension, or gives it another shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset21 as op
from torch import fx

from subbyte.graph.operators import FOURIER, A

Matrix = tuple[torch.Tensor, int, int]  # of a transform, and how many values it reads and gives
BY_ROOT, BY_LENGTH = 1, 2  # what PyTorch's numbers say a transform is divided by


def write_transforms(module: fx.GraphModule) -> None:
    """Write Fourier transforms of fixed lengths as matrix products, in place.

    Args:
        module: A region's graph. Complex values are there as PyTorch has them.
    """
    for node in list(module.graph.nodes):
        with module.graph.inserting_before(node):
            if node.target in FOURIER:
                written = _Writing(module, node).result()
            elif _pads_complex(node):
                written = _padded(module.graph, *node.args)
            elif _is_angle(node):
                written = _angle(module.graph, node.args[0])
            else:
                continue
        written.meta = dict(node.meta)
        node.replace_all_uses_with(written)
        module.graph.erase_node(node)


def _pads_complex(node: fx.Node) -> bool:
    """Whether a node puts zeros beside complex numbers, for which ONNX has nothing."""
    padding = node.target is A.constant_pad_nd.default and node.args[2:] in ((), (0,), (0.0,))
    return padding and node.meta["val"].is_complex()


def _padded(graph: fx.Graph, x: Any, pads: Any, *_: Any) -> fx.Node:
    x = graph.call_function(A.view_as_real.default, (x,))
    x = graph.call_function(A.constant_pad_nd.default, (x, [0, 0, *pads]))
    return graph.call_function(A.view_as_complex.default, (x,))


def _is_angle(node: fx.Node) -> bool:
    """Whether a node gives the angles of complex numbers."""
    source: Any = node.args[0] if node.target is A.angle.default else None
    return source is not None and source.meta["val"].is_complex()


def _angle(graph: fx.Graph, x: Any) -> fx.Node:
    pairs = graph.call_function(A.view_as_real.default, (x,))
    imaginary, real = (graph.call_function(A.select.int, (pairs, -1, i)) for i in (1, 0))
    return graph.call_function(A.atan2.default, (imaginary, real))


def _onnx_atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y). PyTorch's exporter takes −π for π where y is 0 and x negative."""
    zero, pi = op.Constant(value_float=0.0), op.Constant(value_float=math.pi)
    angle = op.Atan(op.Div(y, x))
    behind = op.Where(op.GreaterOrEqual(y, zero), op.Add(angle, pi), op.Sub(angle, pi))
    angle = op.Where(op.Less(x, zero), behind, angle)
    return op.Where(op.IsNaN(angle), zero, angle)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {A.atan2.default: _onnx_atan2}


class _Writing:
    """The nodes that take the place of one transform."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        given: Any = node.args
        self.module, self.node = module, node
        self.source, self.dims, self.mode = given[:3]
        before: torch.Tensor = self.source.meta["val"]
        after: torch.Tensor = node.meta["val"]
        self.rank = after.dim()
        self.dims = [dim % self.rank for dim in self.dims]
        self.shape, self.given = before.shape, after.shape

    def result(self) -> fx.Node:
        kind, (*others, last) = self.node.target, self.dims
        if kind is A._fft_r2c.default:
            x = self._along(self.source, last, self._from_real(last), pairs=(False, True))
            for dim in others:
                x = self._along(x, dim, self._complex(dim, forward=True))
            return self._call(A.view_as_complex.default, x)
        x = self._call(A.view_as_real.default, self.source)
        if kind is A._fft_c2c.default:
            forward = bool(self.node.args[3])
            for dim in self.dims:
                x = self._along(x, dim, self._complex(dim, forward))
            return self._call(A.view_as_complex.default, x)
        for dim in others:
            x = self._along(x, dim, self._complex(dim, forward=False))
        return self._along(x, last, self._to_real(last), pairs=(True, False))

    def _from_real(self, dim: int) -> torch.Tensor:
        ones = torch.eye(self.shape[dim], dtype=torch.float64)
        onesided = bool(self.node.args[3])
        return self._scaled(torch.view_as_real(A._fft_r2c(ones, [1], 0, onesided)), dim)

    def _complex(self, dim: int, forward: bool) -> torch.Tensor:
        ones = _ones(self.shape[dim])
        return self._scaled(torch.view_as_real(A._fft_c2c(ones, [1], 0, forward)), dim)

    def _to_real(self, dim: int) -> torch.Tensor:
        return self._scaled(A._fft_c2r(_ones(self.shape[dim]), [1], 0, self.given[dim]), dim)

    def _scaled(self, rows: torch.Tensor, dim: int) -> torch.Tensor:
        """The matrix (values read, values given), divided as the transform is."""
        to_real = self.node.target is A._fft_c2r.default
        length = self.given[dim] if to_real else self.shape[dim]
        divisor = {BY_ROOT: math.sqrt(length), BY_LENGTH: length}.get(self.mode, 1)
        return (rows.flatten(1) / divisor).float()

    def _along(
        self,
        x: fx.Node,
        dim: int,
        matrix: torch.Tensor,
        pairs: tuple[bool, bool] = (True, True),
    ) -> fx.Node:
        """A product along one dimension.

        Args:
            x: What is transformed.
            dim: Along which dimension.
            matrix: (values read, values given); those of a complex number are neighbours.
            pairs: Whether real numbers stand for complex ones, two in a last dimension of their
                own, in `x` and in what is given.
        """
        there = [*(i for i in range(self.rank) if i != dim), dim]
        back = [there.index(i) for i in range(self.rank)]
        reads, gives = pairs
        x = self._call(A.permute.default, x, [*there, *[self.rank] * reads])
        if reads:
            x = self._call(A.flatten.using_ints, x, -2, -1)
        x = self._call(A.matmul.default, x, self._buffer(matrix))
        if gives:
            x = self._call(A.unflatten.int, x, -1, [matrix.shape[1] // 2, 2])
        return self._call(A.permute.default, x, [*back, *[self.rank] * gives])

    def _call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self.module.graph.call_function(target, args)

    def _buffer(self, matrix: torch.Tensor) -> fx.Node:
        name = f"{self.node.name}_matrix"
        while hasattr(self.module, name):
            name += "_"
        self.module.register_buffer(name, matrix.contiguous())
        return self.module.graph.get_attr(name)


def _ones(length: int) -> torch.Tensor:
    """Rows of complex numbers, of which one has 1 in its real or in its imaginary part."""
    return torch.view_as_complex(
        torch.eye(2 * length, dtype=torch.float64).reshape(2 * length, length, 2)
    )
