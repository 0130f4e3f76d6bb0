"""What lowering makes of a graph: operators of the file, and the model that it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from targets_helpers import (
    RUNTIMES,
    SideBySide,
    TwoConvs,
    deploy,
    differences,
    images,
    normal,
    operators,
    seeded,
)
from torch import Tensor, nn

import subbyte
from subbyte.targets.onnx.neutral import neutral


class Pools(nn.Module):
    """Global average pooling, in all the ways that people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in range(5))
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b, c, d, e = (F.relu(conv(x)) for conv in self.convs)
        pooled = (
            a.mean((2, 3)),
            b.mean((-1, -2)),
            c.mean((2, 3), keepdim=True).flatten(1),
            F.adaptive_avg_pool2d(d, 1).flatten(1),
            F.adaptive_avg_pool2d(e, (1, 1)).view(x.shape[0], -1),
        )
        return tuple(self.linear(part) for part in pooled)


class NamedLikeOurs(nn.Module):
    """Has a layer called as the place where quantizers are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizers = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizers(x)


class AverageOfRows(nn.Module):
    """Adaptive pooling on a tensor of three dimensions, where the channels are the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.linear(x), 1)


class BatchOfProducts(nn.Module):
    """A linear layer, and a matrix product with a parameter of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(6, 6), nn.Parameter(torch.randn(2, 6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(F.relu(self.linear(x)), self.weight)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [8, 3])
def test_it_leaves_the_model_alone_and_computes_the_same(weights: int) -> None:
    quantized = subbyte.quantize(seeded(SideBySide), [images()], subbyte.Recipe(weights=weights))
    rows, state = subbyte.layers(quantized), dict(quantized.state_dict())
    before = quantized(images())
    lowered = neutral(quantized)(images())
    after = quantized(images())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(state[key], value) for key, value in quantized.state_dict().items())
    assert subbyte.layers(quantized) == rows
    for a, b in zip(before, lowered, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_float_weights_are_not_held_twice() -> None:
    recipe = subbyte.Recipe(weights=None, activations=None, first_last=None)
    quantized = subbyte.quantize(seeded(TwoConvs), [images()], recipe)
    lowered = dict(neutral(quantized).named_parameters())
    for name, parameter in quantized.model.named_parameters():
        assert lowered[name].data_ptr() == parameter.data_ptr()
        assert lowered[name] is not parameter  # which stays where it is if the copy is moved


@pytest.mark.slow
def test_global_average_pooling_is_one_operator(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantized = deploy(seeded(Pools), images(), path)
    found = operators(path)
    assert found["GlobalAveragePool"] == 5
    assert not found.keys() & {"Range", "Gather", "ReduceMean", "Shape"}
    for runtime in RUNTIMES:
        assert max(differences(runtime, path, quantized, images(seed=2))) < 1e-6


def test_fewer_integers_than_uint8_has_are_clipped_as_integers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    deploy(seeded(TwoConvs), images(), path, weights=8, activations=4, first_last=None)
    assert operators(path) == {
        "QuantizeLinear": 2,
        "Clip": 2,
        "DequantizeLinear": 2 + 2 + 2,  # of activations, weights and biases
        "Conv": 2,
    }  # and no ReLU: the second Q/DQ begins at 0


def test_adaptive_pooling_of_three_dimensions(tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", normal(4, 5, 6)
    quantized = deploy(seeded(AverageOfRows), batch, path)
    for runtime in RUNTIMES:
        assert max(differences(runtime, path, quantized, batch)) < 1e-6


def test_a_matrix_product_with_a_batch_of_weights(tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", normal(4, 2, 5, 6)
    quantized = deploy(seeded(BatchOfProducts), batch, path)
    for runtime in RUNTIMES:
        assert max(differences(runtime, path, quantized, batch)) < 1e-6


@pytest.mark.slow
def test_a_layer_that_is_called_quantizers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantized = deploy(seeded(NamedLikeOurs), images(), path)
    for runtime in RUNTIMES:
        assert max(differences(runtime, path, quantized, images())) < 1e-6
