"""Least squares, error gptq_round, descent and scales against references in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subbyte.methods.gptq.solve import (
    GroupedQParams,
    cholesky,
    coordinate_descent,
    damped_solution,
    gptq_round,
    losses,
    refit_scales,
)


def problem(
    seed: int, groups: int = 2, inputs: int = 40, outputs: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, GroupedQParams]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 3 * inputs, inputs, generator=g)
    x = x + 0.5 * x.roll(1, 2)  # inputs that go together, so that errors can be passed on
    h = x.transpose(1, 2) @ x / (3 * inputs)
    w = torch.randn(groups, inputs, outputs, generator=g)
    shape = (groups, outputs)
    return h, h @ w, w, GroupedQParams(torch.full(shape, 0.8), torch.full(shape, 4.0), 0, 7)


def test_damping_pulls_to_the_weights_there_were() -> None:
    h, c, w, _ = problem(0)
    old = w + 1
    found = damped_solution(h, c, old, torch.tensor([0.1, 2.0]))
    for group, damping in enumerate((0.1, 2.0)):
        left = h[group].double() + damping * torch.eye(40).double()
        right = c[group].double() + damping * old[group].double()
        assert torch.allclose(found[group].double(), torch.linalg.solve(left, right), atol=1e-4)


def test_errors_are_passed_on_as_in_optimal_brain_quantization() -> None:
    """Reference: after each input, all others move by the inverse of H of those that are left."""
    h, _, w, qparams = problem(1)
    found = gptq_round(w.clone(), h, qparams)
    for group in range(2):
        left, rest = w[group].double().clone(), list(range(40))
        expected = torch.zeros(40, 3).double()
        for j in h[group].diagonal().argsort(descending=True).tolist():
            inverse = torch.linalg.inv(h[group].double()[rest][:, rest])
            i = rest.index(j)
            rounded = (left[j] / 0.8).round().clamp(-4, 3)
            error = (left[j] - rounded * 0.8) / inverse[i, i]
            left[rest] -= inverse[:, i, None] * error
            expected[j] = rounded
            rest.remove(j)
        assert torch.equal(found[group].double(), expected)


def test_without_correlation_gptq_is_rounding_to_nearest() -> None:
    _, _, w, qparams = problem(2)
    h = torch.eye(40).expand(2, 40, 40) * 3
    assert torch.equal(gptq_round(w.clone(), h, qparams), (w / 0.8).round().clamp(-4, 3))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_descent_only_lowers_the_loss_and_ends_where_no_integer_is_better(seed: int) -> None:
    h, c, w, qparams = problem(seed, groups=1, inputs=35, outputs=2)
    start = (w / 0.8).round().clamp(-4, 3)
    once, products = coordinate_descent(start, h @ start, h, c, qparams)
    before, after = (losses(u, h @ u, qparams.scale, c) for u in (start, once))
    assert bool((after <= before + 1e-3).all())
    end = once
    for _ in range(20):
        end, products = coordinate_descent(end, products, h, c, qparams)
    torch.testing.assert_close(products, h @ end, rtol=1e-4, atol=1e-3)
    least = losses(end, h @ end, qparams.scale, c)
    for change in (-1.0, 1.0):
        for i in range(35):
            other = end.clone()
            other[:, i] = (other[:, i] + change).clamp(-4, 3)
            assert bool((losses(other, h @ other, qparams.scale, c) >= least - 1e-3).all())


def test_scales_are_least_squares_where_they_stay_near() -> None:
    h, c, w, qparams = problem(3)
    u = (w / 0.8).round().clamp(-4, 3)
    found = refit_scales(u, h @ u, c, qparams, one_scale=False)
    at = losses(u, h @ u, found, c)
    for factor in (0.99, 1.01):
        assert bool((losses(u, h @ u, found * factor, c) > at).all())
    same = refit_scales(u, h @ u, c, qparams, one_scale=True)
    assert len(same.unique()) == 1
    assert float(losses(u, h @ u, same, c).sum()) < float(losses(u, h @ u, qparams.scale, c).sum())


def test_scales_of_nothing_stay() -> None:
    _, c, w, qparams = problem(4)
    found = refit_scales(torch.zeros_like(w), torch.zeros_like(w), c, qparams, one_scale=False)
    assert torch.equal(found, qparams.scale)


def test_what_rounding_left_indefinite_is_factored_with_a_little_more() -> None:
    h = torch.diag(torch.tensor([1.0, 1.0, -1e-4]))[None].repeat(2, 1, 1)
    h[1] = torch.eye(3)
    lower = cholesky(h)
    assert torch.isfinite(lower).all()
    product = lower @ lower.mT
    assert float((product - h.double()).abs().max()) < 0.01
    torch.testing.assert_close(cholesky(h[1:])[0], torch.eye(3))
