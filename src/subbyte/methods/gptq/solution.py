"""One layer's fit: which damping, which scales, which integers, and whether it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from subbyte.methods.common.hessian import Moments
from subbyte.methods.gptq.solve import (
    FLOOR,
    Grid,
    damped_solution,
    descend,
    feedback,
    losses,
    refitted,
    with_damping,
)

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 10.0)  # of the mean diagonal of H
FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1)  # of the scales that the range rule gives
ROUNDS = 3

GridFor = Callable[[torch.Tensor], Grid]  # of weights (groups, inputs, outputs)


@dataclass
class Fit:
    """Integers less zero points (groups, outputs, inputs), scales, zero points and biases.

    (groups, outputs) each; bias `None` for a layer without one. damping: the one chosen; gain: of
    the squared error on rows that were not fitted to, what rounding leaves over what this leaves.
    """

    integers: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    bias: torch.Tensor | None
    damping: float
    gain: float


def fit(
    seen: Moments,
    held: Moments,
    weights: torch.Tensor,
    rounded: torch.Tensor,
    grid_for: GridFor,
    *,
    centred: bool,
    single: bool,
) -> Fit | None:
    """The fit of a layer, or `None` where it is no better than rounding on the rows held out.

    `None` as well where what it reads or should give is not finite.

    weights, rounded: (groups, outputs, inputs), in float and by rounding to nearest. grid_for: the
    grid that the range rule gives for weights. centred: the layer has a bias. single: one scale for
    all outputs.
    """
    h, c = seen.normal(centred)
    if not bool(torch.isfinite(h).all() & torch.isfinite(c).all()):
        return None
    mean = h.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    h = with_damping(h, FLOOR * mean)
    columns = weights.transpose(1, 2).contiguous()
    c = c + (FLOOR * mean)[:, None, None] * columns
    best, share = _damped(seen, held, h, c, columns, mean, centred)
    lam = share * mean
    damped, target = with_damping(h, lam), c + lam[:, None, None] * columns
    del h, c
    grid = grid_for(best)
    u, grid = _integers(best, damped, target, grid, single)
    for _ in range(ROUNDS):
        u = descend(u, damped, target, grid)
        grid = replace(grid, scale=refitted(u, damped, target, grid, single=single))
    found = (u * grid.scale[:, None]).transpose(1, 2)
    bias = seen.bias(found) if centred else None
    before = held.loss(rounded, seen.bias(rounded) if centred else None).sum()
    after = held.loss(found, bias).sum()
    if not bool(torch.isfinite(after)) or after >= before:
        return None
    integers = u.transpose(1, 2).contiguous()
    return Fit(
        integers, grid.scale, grid.zero_point, bias, share, float(before / after.clamp(min=1e-30))
    )


def _damped(
    seen: Moments,
    held: Moments,
    h: torch.Tensor,
    c: torch.Tensor,
    columns: torch.Tensor,
    mean: torch.Tensor,
    centred: bool,
) -> tuple[torch.Tensor, float]:
    """The least-squares weights with the damping that is best on the rows held out, and it."""
    found: list[tuple[float, torch.Tensor, float]] = []
    for share in DAMPINGS:
        w = damped_solution(h, c, columns, share * mean)
        rows = w.transpose(1, 2)
        loss = held.loss(rows, seen.bias(rows) if centred else None).sum()
        if found and not loss < found[-1][0]:
            break
        found.append((float(loss), w, share))
    return found[-1][1], found[-1][2]


def _integers(
    w: torch.Tensor, h: torch.Tensor, c: torch.Tensor, grid: Grid, single: bool
) -> tuple[torch.Tensor, Grid]:
    """Integers by error feedback with the best of some scales, and the grid with it refitted."""
    outputs, count = w.shape[2], len(FACTORS)
    scale = torch.cat([grid.scale * factor for factor in FACTORS], 1)
    many = replace(grid, scale=scale, zero_point=grid.zero_point.repeat(1, count))
    u = feedback(w.repeat(1, 1, count), h, many)
    targets = c.repeat(1, 1, count)
    shape = (-1, count, outputs)
    if single:
        parts = [x.view(*x.shape[:2], count, outputs).unbind(2) for x in (u, targets)]
        grids = [replace(grid, scale=part) for part in scale.view(shape).unbind(1)]
        each = [refitted(x, h, t, g, single=True) for x, t, g in zip(*parts, grids, strict=True)]
        totals = [float(losses(x, s, h, t).sum()) for x, t, s in zip(*parts, each, strict=True)]
        best = totals.index(min(totals))
        return parts[0][best].contiguous(), replace(grid, scale=each[best])
    scale = refitted(u, h, targets, many, single=False)
    which = losses(u, scale, h, targets).view(shape).argmin(1, keepdim=True)
    scale = scale.view(shape).gather(1, which)[:, 0]
    u = u.view(*u.shape[:2], count, outputs)
    u = u.gather(2, which[:, None].expand(-1, u.shape[1], -1, -1))[:, :, 0]
    return u.contiguous(), replace(grid, scale=scale)
