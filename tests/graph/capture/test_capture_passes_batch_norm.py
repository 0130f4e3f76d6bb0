from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from subbyte.graph.capture.export import capture

Trained = Callable[[nn.Module], nn.Module]


def norms(module: fx.GraphModule) -> int:
    return sum("batch_norm" in str(node.target) for node in module.graph.nodes)


def folded(model: nn.Module, x: torch.Tensor, norms_left: int) -> None:
    """Check that capturing leaves so many norms and does not change what the model computes."""
    module = capture(model, (x,))
    assert norms(module) == norms_left
    torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_behind_a_convolution(bias: bool, affine: bool, trained: Trained) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=bias), nn.BatchNorm2d(6, eps=0.01, affine=affine), nn.ReLU()
    )
    folded(trained(model), torch.randn(4, 3, 8, 8), norms_left=0)


def test_a_norm_behind_a_grouped_convolution(trained: Trained) -> None:
    model = nn.Sequential(nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12))
    folded(trained(model), torch.randn(2, 6, 8, 8), norms_left=0)


def test_a_norm_behind_a_convolution_in_one_dimension(trained: Trained) -> None:
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6))
    folded(trained(model), torch.randn(2, 3, 8), norms_left=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_behind_a_linear_layer(bias: bool, trained: Trained) -> None:
    model = nn.Sequential(nn.Linear(3, 6, bias=bias), nn.BatchNorm1d(6))
    folded(trained(model), torch.randn(4, 3), norms_left=0)


def test_weights_and_biases_by_hand(trained: Trained) -> None:
    model = trained(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)))
    for target, value in (
        (model[0].weight, 3.0),
        (model[0].bias, 5.0),
        (model[1].weight, 2.0),
        (model[1].bias, 7.0),
        (model[1].running_mean, 1.0),
        (model[1].running_var, 16.0),
    ):
        target.detach().fill_(value)
    module = capture(model, (torch.randn(2, 1, 2, 2),))
    conv = module.get_submodule("0")
    assert conv.weight.item() == 1.5  # 3 · 2 / √16
    assert conv.bias.item() == 9.0  # (5 − 1) · 2 / √16 + 7


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class SharedConvolution(TwoReaders):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(self.conv(x)))


class NormFirst(TwoReaders):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(x))


@pytest.mark.parametrize("model", [TwoReaders, SharedConvolution, NormFirst])
def test_a_norm_that_cannot_be_folded_stays(model: type[nn.Module], trained: Trained) -> None:
    folded(trained(model()), torch.randn(2, 3, 3, 3), norms_left=1)


def test_a_norm_with_the_batchs_own_statistics_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    folded(model.eval(), torch.randn(4, 3, 5, 5), norms_left=1)


@pytest.mark.parametrize("outputs", [4, 6])
def test_a_norm_over_another_dimension_than_the_linear_layers_outputs_stays(
    outputs: int, trained: Trained
) -> None:
    model = trained(nn.Sequential(nn.Linear(5, outputs), nn.BatchNorm1d(4)))
    folded(model, torch.randn(3, 4, 5), norms_left=1)


class OwnWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(F.conv2d(x, self.kernel))


class BiasBehindTheNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.bias = nn.Parameter(torch.randn(4, 1, 1))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(F.conv2d(x, self.weight)) + self.bias


@pytest.mark.parametrize("model", [OwnWeight, BiasBehindTheNorm])
def test_a_weight_that_is_no_layers(model: type[nn.Module], trained: Trained) -> None:
    folded(trained(model()), torch.randn(2, 3, 4, 4), norms_left=0)


class ComputedGamma(nn.Module):
    def __init__(self, by_the_input: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.by_the_input = by_the_input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm
        gamma = n.weight.square() * (x.mean() if self.by_the_input else 2)
        return F.batch_norm(self.conv(x), n.running_mean, n.running_var, gamma, n.bias, False)


@pytest.mark.parametrize("by_the_input", [True, False])
def test_a_norm_whose_scale_is_computed(by_the_input: bool, trained: Trained) -> None:
    folded(trained(ComputedGamma(by_the_input)), torch.randn(2, 3, 4, 4), norms_left=by_the_input)


class InTraining(ComputedGamma):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm
        mean, var = n.running_mean.clone(), n.running_var.clone()
        return F.batch_norm(self.conv(x), mean, var, n.weight, n.bias, True)


def test_a_norm_by_the_batchs_own_statistics_stays_beside_running_ones(trained: Trained) -> None:
    model = trained(InTraining(False))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(capture(model, (x,))(x), model(x), rtol=1e-5, atol=1e-5)


class Tokens(nn.Module):
    """A norm over all tokens of a sequence, as in LeViT."""

    def __init__(self, sequence: int) -> None:
        super().__init__()
        self.linear = nn.Linear(5, sequence, bias=False)
        self.norm = nn.BatchNorm1d(sequence)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return self.norm(y.flatten(0, 1)).reshape_as(y)


def test_a_norm_behind_a_linear_layer_of_tokens(trained: Trained) -> None:
    folded(trained(Tokens(4)), torch.randn(3, 6, 5), norms_left=0)


class OtherTokens(Tokens):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return self.norm(y.transpose(1, 2).flatten(0, 1))


class KeptTokens(Tokens):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        flat = y.flatten(0, 1)
        return self.norm(flat) + flat


@pytest.mark.parametrize("model", [OtherTokens, KeptTokens])
def test_a_norm_over_tokens_that_are_turned_or_read_again_stays(
    model: type[Tokens], trained: Trained
) -> None:
    folded(trained(model(4)), torch.randn(3, 4, 5), norms_left=1)


class Mixed(nn.Module):
    """Convolutions of several sizes side by side, as in MixNet, and one norm behind them."""

    def __init__(self, twice: bool = False, kept: bool = False, axis: int = 1) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 2, 1, bias=False)
        self.large = nn.Conv2d(3, 4, 3, padding=1)
        self.twice, self.kept, self.axis = twice, kept, axis
        self.norm = nn.BatchNorm2d(2 + 4 + 2 * twice + 3 * kept if axis == 1 else 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small, large = self.small(x), self.large(x)
        if self.axis != 1:
            return self.norm(torch.cat([large, large * 2], self.axis))
        parts = [small, large] + [small] * self.twice + [x] * self.kept
        return self.norm(torch.cat(parts, 1))


def test_a_norm_behind_convolutions_side_by_side(trained: Trained) -> None:
    folded(trained(Mixed()), torch.randn(2, 3, 5, 5), norms_left=0)


@pytest.mark.parametrize("options", [{"twice": True}, {"kept": True}, {"axis": 2}])
def test_a_norm_behind_other_things_side_by_side_stays(
    options: dict[str, int], trained: Trained
) -> None:
    folded(trained(Mixed(**options)), torch.randn(2, 3, 5, 5), norms_left=1)


class LinearSideBySide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 3), nn.Linear(5, 2)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.cat([self.left(x), self.right(x)], 1))


def test_a_norm_behind_linear_layers_side_by_side(trained: Trained) -> None:
    folded(trained(LinearSideBySide()), torch.randn(4, 5), norms_left=0)


class TokensAfterTokens(nn.Module):
    """Tokens side by side are no channels, though a norm of three dimensions takes them so."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.cat([self.left(x), self.right(x)], 1))


def test_a_norm_over_tokens_side_by_side_stays(trained: Trained) -> None:
    folded(trained(TokensAfterTokens()), torch.randn(2, 4, 5), norms_left=1)
