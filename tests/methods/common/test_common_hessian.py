"""The sums say of samples what the samples themselves would, in float64."""

from __future__ import annotations

import torch

from subbyte.methods.common.hessian import HessianAccumulator

G = torch.Generator().manual_seed(0)
X = torch.rand(50, 3, 4, generator=G)  # rows, groups, inputs
T = torch.randn(50, 3, 2, generator=G)
W = torch.randn(3, 2, 4, generator=G)
B = torch.randn(3, 2, generator=G)


def accumulated() -> HessianAccumulator:
    found = HessianAccumulator.none(W)
    for start in (0, 20, 45):
        end = {0: 20, 20: 45, 45: 50}[start]
        found.add(X[start:end], T[start:end])
    return found


def outputs() -> torch.Tensor:
    return torch.einsum("ngi,goi->ngo", X.double(), W.double())


def test_the_loss_with_and_without_a_bias() -> None:
    without = (outputs() - T.double()).square().mean(0)
    within = (outputs() + B.double() - T.double()).square().mean(0)
    assert torch.allclose(accumulated().loss(W, None).double(), without, rtol=1e-4)
    assert torch.allclose(accumulated().loss(W, B).double(), within, rtol=1e-4)


def test_the_bias_makes_the_mean_output_the_mean_target() -> None:
    bias = accumulated().bias(W)
    error = (outputs() + bias.double() - T.double()).mean(0)
    assert float(error.abs().max()) < 1e-5


def test_the_normal_equations_give_least_squares_with_the_best_bias() -> None:
    h, c = accumulated().normal(centred=True)
    found = torch.linalg.solve(h.double(), c.double())
    for group in range(3):
        rows = torch.cat([X[:, group], torch.ones(50, 1)], 1).double()
        expected = torch.linalg.lstsq(rows, T[:, group].double()).solution[:4]
        assert torch.allclose(found[group], expected, atol=1e-4)


def test_without_rows_nothing_is_divided_by_nothing() -> None:
    assert float(HessianAccumulator.none(W).loss(W, B).abs().max()) == 0


def test_a_row_that_counts_twice_is_two_rows() -> None:
    weights = torch.tensor([1.0, 2.0, 0.0] + [1.0] * 47)
    weighed, twice = HessianAccumulator.none(W), HessianAccumulator.none(W)
    weighed.add(X, T, weights)
    rows = [0, 1, 1, *range(3, 50)]
    twice.add(X[rows], T[rows])
    assert torch.allclose(weighed.loss(W, B), twice.loss(W, B), rtol=1e-5)
    assert torch.allclose(weighed.bias(W), twice.bias(W), rtol=1e-5)


def test_large_means_leave_small_differences_their_digits() -> None:
    far, moved = HessianAccumulator.none(W), 10_000 + torch.arange(4.0)
    far.add(X[:20] + moved, T[:20] - 3000)
    far.add(X[20:] + moved, T[20:] - 3000)
    bias = far.bias(W)
    within = torch.einsum("ngi,goi->ngo", (X + moved).double(), W.double()) + bias.double()
    expected = (within - (T.double() - 3000)).square().mean(0)
    torch.testing.assert_close(far.loss(W, bias).double(), expected, rtol=0.02, atol=0)
    near = accumulated().normal(centred=True)
    for found, reference in zip(far.normal(centred=True), near, strict=True):
        torch.testing.assert_close(found, reference, rtol=0, atol=0.003)


def test_without_a_bias_the_normal_equations_are_those_of_the_rows_as_they_are() -> None:
    h, c = accumulated().normal(centred=False)
    x, t = X.double().transpose(0, 1), T.double().transpose(0, 1)
    torch.testing.assert_close(h.double(), x.mT @ x / 50, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(c.double(), x.mT @ t / 50, rtol=1e-4, atol=1e-5)
