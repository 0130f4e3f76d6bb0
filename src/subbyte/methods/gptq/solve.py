"""Integers and scales with which a layer gives its targets best, in closed form.

All in the layout (groups, inputs, outputs), so that what is done input by input lies together. A
weight is (q − z) · s with integers q, and its loss wᵀHw − 2wᵀC.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

AT_ONCE = 32  # inputs whose errors are passed on together
FLOOR = 1e-5  # of the mean diagonal: what keeps H positive definite, whatever the inputs


@dataclass
class Grid:
    """Scales and zero points, (groups, outputs), and the smallest and the largest integer."""

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: int
    high: int


def damped_solution(
    h: torch.Tensor, c: torch.Tensor, weights: torch.Tensor, damping: torch.Tensor
) -> torch.Tensor:
    """The w of the least wᵀHw − 2wᵀC + λ|w − weights|², with a λ (damping) for each group."""
    damped = with_damping(h, damping)
    right = c + damping[:, None, None] * weights
    return torch.cholesky_solve(right.double(), cholesky(damped)).to(weights.dtype)


def cholesky(h: torch.Tensor) -> torch.Tensor:
    """The lower triangle L of H = LLᵀ, in float64.

    Where rounding has left H indefinite, as little as helps is added to its diagonal.
    """
    h = h.double()
    mean = h.diagonal(dim1=1, dim2=2).abs().mean(1)
    factor: torch.Tensor
    factor, wrong = torch.linalg.cholesky_ex(h)
    more, added = FLOOR, torch.zeros_like(mean)
    while bool(wrong.any()) and more < 1e6:
        added = torch.where(wrong > 0, more * mean, added)
        factor, wrong = torch.linalg.cholesky_ex(with_damping(h, added))
        more *= 10
    return factor


def with_damping(h: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
    """H + λI."""
    damped = h.clone()
    damped.diagonal(dim1=1, dim2=2).add_(damping[:, None])
    return damped


def losses(u: torch.Tensor, scale: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """wᵀHw − 2wᵀC of w = u · scale, (groups, outputs)."""
    w = u * scale[:, None]
    return ((h @ w - 2 * c) * w).sum(1)


def feedback(w: torch.Tensor, h: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Integers less zero points of w, rounded input by input, errors passed on to what follows.

    Frantar et al. 2023, "GPTQ"; in the order of the falling diagonal of the positive definite H.
    With H = VVᵀ, V an upper triangle, the loss of errors e is |Vᵀe|²: an input is best where it
    makes its own row of Vᵀe zero, whatever stands before it. No inverse is needed so.
    """
    inputs, outputs = w.shape[1:]
    order = h.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    rows = order[..., None].expand(-1, -1, outputs)
    w = w.gather(1, rows)
    back = order.flip(1)
    h = h.gather(1, back[..., None].expand_as(h)).gather(2, back[:, None].expand_as(h))
    upper = cholesky(h).flip(1, 2)
    passed = (upper / upper.diagonal(dim1=1, dim2=2)[:, None]).to(w.dtype)
    u, errors = torch.empty_like(w), torch.empty_like(w)
    scale, z = grid.scale, grid.zero_point
    low, high, reciprocal = grid.low - z, grid.high - z, 1 / grid.scale
    for start in range(0, inputs, AT_ONCE):
        end = min(start + AT_ONCE, inputs)
        before = passed[:, :start, start:end].mT
        wanted = torch.baddbmm(w[:, start:end], before, errors[:, :start])
        inner = passed[:, start:end, start:end]
        for j in range(end - start):
            level = torch.mul(wanted[:, j], reciprocal).round_().clamp_(low, high)
            error = torch.addcmul(w[:, start + j], level, scale, value=-1)
            u[:, start + j], errors[:, start + j] = level, error
            if j + 1 < end - start:
                wanted[:, j + 1 :] += inner[:, j, j + 1 :, None] * error[:, None]
    return torch.empty_like(u).scatter_(1, rows, u)


def descend(
    u: torch.Tensor, h: torch.Tensor, c: torch.Tensor, grid: Grid, sweeps: int = 1
) -> torch.Tensor:
    """Each integer in turn at its best, the others as they are; the loss never grows."""
    inputs = u.shape[1]
    scale, z = grid.scale, grid.zero_point
    low, high, reciprocal = grid.low - z, grid.high - z, 1 / grid.scale
    u = u.clone()
    w = u * scale[:, None]
    slope = h @ w - c
    diagonal = h.diagonal(dim1=1, dim2=2)
    for _ in range(sweeps):
        for start in range(0, inputs, AT_ONCE):
            end = min(start + AT_ONCE, inputs)
            here = slope[:, start:end].clone()
            inner = h[:, start:end, start:end]
            changes = torch.empty_like(here)
            for j in range(end - start):
                k = start + j
                wanted = torch.addcdiv(w[:, k], here[:, j], diagonal[:, k, None], value=-1)
                level = wanted.mul_(reciprocal).round_().clamp_(low, high)
                change = (level - u[:, k]).mul_(scale)
                u[:, k] = level
                changes[:, j] = change
                if j + 1 < end - start:
                    here[:, j + 1 :] += inner[:, j, j + 1 :, None] * change[:, None]
            w[:, start:end] += changes
            slope += h[:, :, start:end] @ changes
    return u


def refitted(
    u: torch.Tensor, h: torch.Tensor, c: torch.Tensor, grid: Grid, *, single: bool
) -> torch.Tensor:
    """The scales that suit the integers best, (groups, outputs); near the old ones, or these.

    single: one scale for all outputs.
    """
    over, under = (u * c).sum(1), ((h @ u) * u).sum(1)
    if single:
        over, under = over.sum().expand_as(over), under.sum().expand_as(under)
    new = over / under.clamp(min=1e-30)
    near = (new > 0.3 * grid.scale) & (new < 3 * grid.scale)
    return torch.where(near, new, grid.scale)
