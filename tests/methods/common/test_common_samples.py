"""Rows times matrices are what PyTorch's own layers give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from subbyte.methods.common.samples import (
    as_matrices,
    as_weight,
    geometry_of,
    input_rows,
    output_rows,
    positions,
)

A = torch.ops.aten
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 7, 5)),
    "strided": (nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(0, 1)), (2, 6, 9, 6)),
    "dilated": (nn.Conv2d(6, 8, 3, dilation=(2, 1)), (2, 6, 9, 6)),
    "grouped": (nn.Conv2d(6, 9, 3, groups=3), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 5, padding=2, groups=6), (2, 6, 5, 5)),
    "same": (nn.Conv2d(3, 4, 4, padding="same"), (2, 3, 6, 6)),
    "one-dimensional": (nn.Conv1d(3, 4, 3, padding=2), (2, 3, 6)),
    "transposed": (nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1), (2, 6, 4, 3)),
    "transposed, odd": (
        nn.ConvTranspose2d(6, 4, (3, 2), (2, 3), (0, 1), (1, 2), dilation=(2, 1)),
        (2, 6, 4, 3),
    ),
    "transposed, cut": (nn.ConvTranspose2d(6, 4, 1, stride=2, padding=1), (2, 6, 4, 4)),
    "transposed, grouped": (nn.ConvTranspose2d(6, 9, 3, stride=2, groups=3), (2, 6, 4, 4)),
    "transposed, depthwise": (nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6), (2, 6, 4, 4)),
    "transposed, one-dimensional": (nn.ConvTranspose1d(3, 4, 3, stride=2), (2, 3, 6)),
    "linear": (nn.Linear(5, 4), (2, 5)),
    "tokens": (nn.Linear(5, 4), (2, 3, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_some_rows_of_a_layers_outputs(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    node = only_layer(layer, x)
    weight = layer.get_parameter("weight").detach()
    bias = layer.get_parameter("bias").detach()
    geometry = geometry_of(node, weight)
    with torch.no_grad():
        outputs = layer(x)
    chosen = torch.randperm(positions(outputs, geometry))[:7]
    rows = input_rows(x, chosen, geometry)
    found = torch.einsum("ngi,goi->ngo", rows, as_matrices(weight, geometry))
    found = found + bias.reshape(geometry.groups, -1)
    assert torch.allclose(found, output_rows(outputs, chosen, geometry), atol=1e-5)
    assert torch.equal(as_weight(as_matrices(weight, geometry), weight, geometry), weight)


def test_a_product_with_a_constant_matrix_has_its_outputs_in_columns() -> None:
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("w")
    node = graph.call_function(A.matmul.default, (x, weight))
    values, matrix = torch.randn(2, 3, 5), torch.randn(5, 4)
    geometry = geometry_of(node, matrix)
    rows = input_rows(values, torch.arange(6), geometry)
    found = torch.einsum("ngi,goi->ngo", rows, as_matrices(matrix, geometry))
    expected = output_rows(values @ matrix, torch.arange(6), geometry)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(as_weight(as_matrices(matrix, geometry), matrix, geometry), matrix)


def only_layer(layer: nn.Module, x: torch.Tensor) -> fx.Node:
    graph: Any = torch.export.export(layer.eval(), (x,)).graph
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    return next(n for n in nodes if "conv" in str(n.target) or "linear" in str(n.target))
