"""Linear layers and matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table


def _linear(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, as PyTorch's: x @ weightᵀ + bias. `linears` makes them."""
    del node
    return F.linear(x, weight, bias)


def _matmul(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """A product of matrices."""
    del node
    return torch.matmul(left, right)


def _gemm(node: Node, left: Tensor, right: Tensor, addend: Tensor | None = None) -> Tensor:
    """Alpha · left @ right + beta · addend, either matrix transposed before."""
    left = left.t() if node.get("transA", 0) else left
    right = right.t() if node.get("transB", 0) else right
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = torch.matmul(left, right)
    product = product if alpha == 1 else product * alpha
    if addend is None:
        return product
    return product + (addend if beta == 1 else addend * beta)


def _einsum(node: Node, *operands: Tensor) -> Tensor:
    """A sum over products, by its equation."""
    return torch.einsum(node.get("equation"), *operands)


OPERATORS: Table = {
    "Einsum": Operator(_einsum),
    "Gemm": Operator(_gemm, weight=1),
    "Linear": Operator(_linear, weight=1),
    "MatMul": Operator(_matmul, weight=1),
}
