"""A layer's solution: better on samples that it was not fitted to, or not taken."""

from __future__ import annotations

import torch

from subbyte.methods.common.hessian import HessianAccumulator
from subbyte.methods.gptq.solution import LayerSolution, solve_layer
from subbyte.methods.gptq.solve import GroupedQParams

W = torch.randn(1, 6, 20, generator=torch.Generator().manual_seed(0))


def chosen(w: torch.Tensor) -> GroupedQParams:
    scale = w.abs().amax(1) / 4
    return GroupedQParams(scale, torch.full_like(scale, 4.0), 0, 7)


def rounded(w: torch.Tensor) -> torch.Tensor:
    qparams = chosen(w.transpose(1, 2))
    scale = qparams.scale[..., None]
    return (w / scale).round().clamp(-4, 3) * scale


def accumulated(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor = W) -> HessianAccumulator:
    found = HessianAccumulator.none(w)
    found.add(x, t)
    return found


def rows(count: int, seed: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that go together, and what the float weights give for them."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(5, 20, generator=torch.Generator().manual_seed(99))
    x = torch.randn(count, 5, generator=g) @ mix + 0.3 * torch.randn(count, 20, generator=g)
    x = x[:, None] * scale
    return x, torch.einsum("ngi,goi->ngo", x, W) + 1


def run(
    train: HessianAccumulator, held_out: HessianAccumulator, *, one_scale: bool = False
) -> LayerSolution | None:
    return solve_layer(train, held_out, W, rounded(W), chosen, with_bias=True, one_scale=one_scale)


def loss(found: LayerSolution, held_out: HessianAccumulator) -> float:
    weights = found.signed * found.scale[..., None]
    return float(held_out.loss(weights, found.bias).sum())


def test_it_is_several_times_better_than_rounding_on_rows_held_out() -> None:
    train, held_out = accumulated(*rows(400, 1)), accumulated(*rows(200, 2))
    found = run(train, held_out)
    assert found is not None
    nearest = rounded(W)
    assert loss(found, held_out) < 0.3 * float(held_out.loss(nearest, train.bias(nearest)).sum())
    assert (
        abs(
            found.gain * loss(found, held_out)
            - float(held_out.loss(nearest, train.bias(nearest)).sum())
        )
        < 0.1
    )
    integers = found.signed + found.zero_point[..., None]
    assert float(integers.min()) >= 0
    assert float(integers.max()) <= 7
    assert torch.equal(integers, integers.round())


def test_one_scale_for_all() -> None:
    train, held_out = accumulated(*rows(400, 1)), accumulated(*rows(200, 2))
    found = solve_layer(
        train,
        held_out,
        W,
        rounded(W),
        lambda w: GroupedQParams(w.abs().amax().expand(1, 6) / 4, torch.full((1, 6), 4.0), 0, 7),
        with_bias=True,
        one_scale=True,
    )
    assert found is not None
    assert len(found.scale.unique()) == 1


def test_what_does_not_help_elsewhere_is_not_taken() -> None:
    """Targets of the rows to fit to have nothing to do with those to judge by."""
    x, t = rows(30, 1)
    train = accumulated(x, torch.randn(t.shape, generator=torch.Generator().manual_seed(5)) * 30)
    assert run(train, accumulated(*rows(200, 2))) is None


def test_dead_and_constant_inputs_and_fewer_rows_than_inputs() -> None:
    for change in ("dead", "constant", "few"):
        x, t = rows(8 if change == "few" else 300, 1)
        other, wanted = rows(100, 2)
        if change == "dead":
            x[..., :7], other[..., :7] = 0, 0
        if change == "constant":
            x[:], other[:] = 0.5, 0.5
        t, wanted = (torch.einsum("ngi,goi->ngo", v, W) + 1 for v in (x, other))
        found = run(accumulated(x, t), accumulated(other, wanted))
        if found is not None:
            assert bool(torch.isfinite(found.scale).all())
            assert bool(torch.isfinite(found.signed).all())
            assert found.gain > 1


def test_what_is_not_finite_leaves_the_layer_as_it_is() -> None:
    (x, t), held_out = rows(400, 1), accumulated(*rows(200, 2))
    x[3, 0, 2] = torch.inf
    assert run(accumulated(x, t), held_out) is None


def test_inputs_far_from_zero_that_hardly_differ_are_no_fault() -> None:
    """As deep in a network of random weights: in float32 their H would be indefinite."""
    (x, _), (y, _) = rows(400, 1, 1e-2), rows(200, 2, 1e-2)
    x, y = x + 1e4, y + 1e4
    targets = [torch.einsum("ngi,goi->ngo", rows.double(), W.double()).float() for rows in (x, y)]
    found = run(accumulated(x, targets[0]), accumulated(y, targets[1]))
    assert found is None or bool(torch.isfinite(found.scale).all())
