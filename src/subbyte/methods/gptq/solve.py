"""Integers and scales with which a layer gives its targets best.

All in the layout (groups, inputs, outputs), so that what is done input by input lies together. A
weight is (q − z) · s with integers q, and its loss wᵀHw − 2wᵀC. What is called u is q − z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

INPUTS_AT_ONCE = 32  # whose errors are passed on together
FLOOR = 1e-5  # of the mean diagonal: what keeps H positive definite, whatever the inputs


@dataclass
class GroupedQParams:
    """Scales and zero points of a weight in groups.

    Attributes:
        scale: (groups, outputs).
        zero_point: (groups, outputs), float.
        low: The smallest integer.
        high: The largest integer.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: int
    high: int


def damped_solution(
    h: torch.Tensor, c: torch.Tensor, weights: torch.Tensor, damping: torch.Tensor
) -> torch.Tensor:
    """The w of the least wᵀHw − 2wᵀC + λ|w − weights|².

    Args:
        h: (groups, inputs, inputs), positive definite.
        c: (groups, inputs, outputs).
        weights: (groups, inputs, outputs).
        damping: λ, (groups,).
    """
    factor = cholesky(with_damping(h, damping))
    right = c + damping[:, None, None] * weights
    return torch.cholesky_solve(right.to(factor.dtype), factor).to(weights.dtype)


def cholesky(h: torch.Tensor) -> torch.Tensor:
    """The lower triangle L of H = LLᵀ, in the type of H or, where that has none, in float64.

    Where rounding has left H indefinite, as little as helps is added to its diagonal.
    """
    factor: torch.Tensor
    factor, wrong = torch.linalg.cholesky_ex(h)
    if not bool(wrong.any()):
        return factor
    h = h.double()
    mean = h.diagonal(dim1=1, dim2=2).abs().mean(1)
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


def losses(
    u: torch.Tensor, products: torch.Tensor, scale: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """wᵀHw − 2wᵀC of w = u · scale, (groups, outputs).

    Args:
        u: (groups, inputs, outputs).
        products: Hu, the same shape.
        scale: (groups, outputs).
        c: (groups, inputs, outputs).
    """
    by_scale = scale[:, None]
    return ((products * by_scale - 2 * c) * (u * by_scale)).sum(1)


def gptq_round(w: torch.Tensor, h: torch.Tensor, qparams: GroupedQParams) -> torch.Tensor:
    """Integers less zero points of w, rounded input by input, errors passed on to what follows.

    Frantar et al. 2023, "GPTQ", in the order of the falling diagonal of H. With H = VVᵀ, V an upper
    triangle, the loss of errors e is |Vᵀe|²: an input is best where it makes its own row of Vᵀe
    zero, whatever stands before it. So no inverse is needed.

    Args:
        w: The weights to round, (groups, inputs, outputs).
        h: (groups, inputs, inputs), positive definite.
        qparams: Scales and zero points.
    """
    inputs, outputs = w.shape[1:]
    order = h.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    rows = order[..., None].expand(-1, -1, outputs)
    w = w.gather(1, rows)
    back = order.flip(1)
    h = h.gather(1, back[..., None].expand_as(h)).gather(2, back[:, None].expand_as(h))
    upper = cholesky(h).flip(1, 2)
    del h  # of many inputs it is large
    passed = upper.div_(upper.diagonal(dim1=1, dim2=2).clone()[:, None]).to(w.dtype)
    u, errors = torch.empty_like(w), torch.empty_like(w)
    scale, z = qparams.scale, qparams.zero_point
    low, high, reciprocal = qparams.low - z, qparams.high - z, 1 / qparams.scale
    for start in range(0, inputs, INPUTS_AT_ONCE):
        end = min(start + INPUTS_AT_ONCE, inputs)
        before = passed[:, :start, start:end].mT
        wanted = torch.baddbmm(w[:, start:end], before, errors[:, :start])
        inner = passed[:, start:end, start:end]
        for j in range(end - start):
            rounded = torch.mul(wanted[:, j], reciprocal).round_().clamp_(low, high)
            error = torch.addcmul(w[:, start + j], rounded, scale, value=-1)
            u[:, start + j], errors[:, start + j] = rounded, error
            if j + 1 < end - start:
                wanted[:, j + 1 :] += inner[:, j, j + 1 :, None] * error[:, None]
    return torch.empty_like(u).scatter_(1, rows, u)


def coordinate_descent(
    u: torch.Tensor,
    products: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    qparams: GroupedQParams,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each integer in turn at its best, the others as they are; the loss never grows.

    Args:
        u: Integers less zero points to begin with, (groups, inputs, outputs).
        products: Hu, the same shape.
        h: (groups, inputs, inputs), positive definite.
        c: (groups, inputs, outputs).
        qparams: Scales and zero points.

    Returns:
        The integers less zero points, and Hu of these.
    """
    inputs = u.shape[1]
    scale, z = qparams.scale, qparams.zero_point
    low, high, reciprocal = qparams.low - z, qparams.high - z, 1 / qparams.scale
    u, products = u.clone(), products.clone()
    diagonal = h.diagonal(dim1=1, dim2=2)
    for start in range(0, inputs, INPUTS_AT_ONCE):
        end = min(start + INPUTS_AT_ONCE, inputs)
        before = u[:, start:end].clone()
        slope = products[:, start:end] * scale[:, None] - c[:, start:end]
        inner = h[:, start:end, start:end]
        for j in range(end - start):
            k = start + j
            wanted = torch.addcdiv(
                before[:, j] * scale, slope[:, j], diagonal[:, k, None], value=-1
            )
            rounded = wanted.mul_(reciprocal).round_().clamp_(low, high)
            change = (rounded - before[:, j]).mul_(scale)
            u[:, k] = rounded
            if j + 1 < end - start:
                slope[:, j + 1 :] += inner[:, j, j + 1 :, None] * change[:, None]
        products.baddbmm_(h[:, :, start:end], u[:, start:end] - before)
    return u, products


def refit_scales(
    u: torch.Tensor,
    products: torch.Tensor,
    c: torch.Tensor,
    qparams: GroupedQParams,
    *,
    one_scale: bool,
) -> torch.Tensor:
    """The least-squares scales of integers, (groups, outputs); the old ones where they are far off.

    Args:
        u: Integers less zero points, (groups, inputs, outputs).
        products: Hu, the same shape.
        c: (groups, inputs, outputs).
        qparams: The scales so far.
        one_scale: All outputs have the same one.
    """
    over, under = (u * c).sum(1), (products * u).sum(1)
    if one_scale:
        over, under = over.sum().expand_as(over), under.sum().expand_as(under)
    new = over / under.clamp(min=1e-30)
    near = (new > 0.3 * qparams.scale) & (new < 3 * qparams.scale)
    return torch.where(near, new, qparams.scale)
