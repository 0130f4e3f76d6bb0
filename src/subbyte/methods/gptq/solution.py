"""One layer's solution: which damping, which scales, which integers, and whether it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from subbyte.methods.common.hessian import HessianAccumulator
from subbyte.methods.gptq.solve import (
    FLOOR,
    GroupedQParams,
    coordinate_descent,
    damped_solution,
    gptq_round,
    losses,
    refit_scales,
    with_damping,
)

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 10.0)  # of the mean diagonal of H
SCALE_FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1)  # of the scales that the range rule gives
ROUNDS = 3  # of coordinate descent, and of scales that suit what it finds

ChooseQParams = Callable[[torch.Tensor], GroupedQParams]  # of weights (groups, inputs, outputs)


@dataclass
class LayerSolution:
    """The parameters found for a layer.

    Attributes:
        signed: Integers less zero points, (groups, outputs, inputs).
        scale: (groups, outputs).
        zero_point: (groups, outputs).
        bias: (groups, outputs); `None` for a layer without one.
        damping: The share of the mean diagonal of H that was chosen.
        gain: Squared error of rounding to nearest over that of this, on samples held out.
    """

    signed: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    bias: torch.Tensor | None
    damping: float
    gain: float


@dataclass(frozen=True)
class _Problem:
    """wᵀHw − 2wᵀC, with a little on the diagonal that pulls to the float weights.

    Attributes:
        h: (groups, inputs, inputs).
        c: (groups, inputs, outputs).
        columns: The float weights, (groups, inputs, outputs).
        mean: Of the diagonal of H, (groups,); 1 where there is nothing.
    """

    h: torch.Tensor
    c: torch.Tensor
    columns: torch.Tensor
    mean: torch.Tensor

    def damped(self, share: float) -> _Problem:
        """The same with so much more of the mean diagonal."""
        damping = share * self.mean
        h = with_damping(self.h, damping)
        return replace(self, h=h, c=self.c + damping[:, None, None] * self.columns)


def solve_layer(
    train: HessianAccumulator,
    held_out: HessianAccumulator,
    weights: torch.Tensor,
    rounded: torch.Tensor,
    choose: ChooseQParams,
    *,
    with_bias: bool,
    one_scale: bool,
) -> LayerSolution | None:
    """The integers, scales and bias of a layer.

    The least-squares weights are rounded by GPTQ; then integers and scales take turns.

    Args:
        train: Of the samples that it is fitted to.
        held_out: Of the samples that judge.
        weights: In float, (groups, outputs, inputs).
        rounded: Rounded to nearest, the same shape.
        choose: The scales and zero points that the range rule gives for weights.
        with_bias: The layer has a bias.
        one_scale: All outputs have the same scale.

    Returns:
        The solution, or `None` where it is not better than rounding on the samples held out, or
        where what the layer reads or should give is not finite.
    """
    problem = _problem(train, weights, with_bias)
    if problem is None:
        return None
    best, share = _damped(problem, train, held_out, with_bias)
    problem = problem.damped(share)
    u, products, qparams = _integers(best, problem, choose(best), one_scale)
    for _ in range(ROUNDS):
        u, products = coordinate_descent(u, products, problem.h, problem.c, qparams)
        scale = refit_scales(u, products, problem.c, qparams, one_scale=one_scale)
        qparams = replace(qparams, scale=scale)
    found = (u * qparams.scale[:, None]).transpose(1, 2)
    bias = train.bias(found) if with_bias else None
    before = held_out.loss(rounded, train.bias(rounded) if with_bias else None).sum()
    after = held_out.loss(found, bias).sum()
    if not bool(torch.isfinite(after)) or after >= before:
        return None
    gain = float(before / after.clamp(min=1e-30))
    signed = u.transpose(1, 2).contiguous()
    return LayerSolution(signed, qparams.scale, qparams.zero_point, bias, share, gain)


def _problem(train: HessianAccumulator, weights: torch.Tensor, with_bias: bool) -> _Problem | None:
    """What the samples ask for; `None` where they are not finite."""
    h, c = train.normal(with_bias)
    if not bool(torch.isfinite(h).all() & torch.isfinite(c).all()):
        return None
    mean = h.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    return _Problem(h, c, weights.transpose(1, 2).contiguous(), mean).damped(FLOOR)


def _damped(
    problem: _Problem, train: HessianAccumulator, held_out: HessianAccumulator, with_bias: bool
) -> tuple[torch.Tensor, float]:
    """The least-squares weights with the damping that is best on samples held out, and it."""
    found: list[tuple[float, torch.Tensor, float]] = []
    for share in DAMPINGS:
        w = damped_solution(problem.h, problem.c, problem.columns, share * problem.mean)
        rows = w.transpose(1, 2)
        loss = held_out.loss(rows, train.bias(rows) if with_bias else None).sum()
        if found and not loss < found[-1][0]:
            break
        found.append((float(loss), w, share))
    return found[-1][1], found[-1][2]


def _integers(
    w: torch.Tensor, problem: _Problem, qparams: GroupedQParams, one_scale: bool
) -> tuple[torch.Tensor, torch.Tensor, GroupedQParams]:
    """Integers by GPTQ with the best of some scales, their products with H, and fitting scales."""
    h, outputs, count = problem.h, w.shape[2], len(SCALE_FACTORS)
    scale = torch.cat([qparams.scale * factor for factor in SCALE_FACTORS], 1)
    many = replace(qparams, scale=scale, zero_point=qparams.zero_point.repeat(1, count))
    u = gptq_round(w.repeat(1, 1, count), h, many)
    products = h @ u
    c = problem.c.repeat(1, 1, count)
    shape = (-1, count, outputs)
    if one_scale:
        us, its, cs = (x.view(*x.shape[:2], count, outputs).unbind(2) for x in (u, products, c))
        tried = [replace(qparams, scale=part) for part in scale.view(shape).unbind(1)]
        scales = [
            refit_scales(x, p, t, q, one_scale=True)
            for x, p, t, q in zip(us, its, cs, tried, strict=True)
        ]
        totals = [
            float(losses(x, p, s, t).sum()) for x, p, t, s in zip(us, its, cs, scales, strict=True)
        ]
        best = totals.index(min(totals))
        return us[best].contiguous(), its[best].contiguous(), replace(qparams, scale=scales[best])
    scale = refit_scales(u, products, c, many, one_scale=False)
    which = losses(u, products, scale, c).view(shape).argmin(1, keepdim=True)
    scale = scale.view(shape).gather(1, which)[:, 0]
    u, products = (
        x.view(*x.shape[:2], count, outputs)
        .gather(2, which[:, None].expand(-1, x.shape[1], -1, -1))[:, :, 0]
        .contiguous()
        for x in (u, products)
    )
    return u, products, replace(qparams, scale=scale)
