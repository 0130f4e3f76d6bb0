"""The range with the least loss, whatever the loss, by search over both of its ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.sample import Range

if TYPE_CHECKING:
    import torch

Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"

SHORTEST = 0.01  # of the extremes, so far down for the sake of outliers
MARGIN = 2  # times the loss of rounding without clipping: more than finer steps ever lose
LOPSIDED = 4  # one extreme so many times the other: no factor for both can suit them


def search(
    low: torch.Tensor, high: torch.Tensor, spec: QSpec, loss: Loss, *, errors: bool = False
) -> Range:
    """The range with the least `loss`, for all channels at once.

    Args:
        low: The lower extremes, (channels,), which are tried first and win ties.
        high: The upper extremes, (channels,).
        spec: The integers that values become.
        loss: From both ends of a range, each of shape (channels,), to a number a channel; infinite
            where the range must not be chosen.
        errors: The loss is the sum of what clipping and what rounding leave, so that it need not
            be asked about ranges that clip too much already.
    """
    import torch

    low, high = low.clamp(max=0), high.clamp(min=0)
    best = torch.full_like(low, float("inf"))
    best_low, best_high = low.clone(), high.clone()

    def attempt(new_low: torch.Tensor, new_high: torch.Tensor) -> torch.Tensor:
        total = loss(new_low, new_high)
        better = total < best
        best[better] = total[better].to(best.dtype)
        best_low[better] = new_low[better]
        best_high[better] = new_high[better]
        return total

    shares = torch.linspace(1.0, 0.5, 26) if spec.bits == 8 else torch.linspace(1.0, 0.1, 90)
    unclipped = attempt(low, high)
    for share in [*shares[1:], *_falling(shares[-1])]:
        clipped = attempt(low * share, high * share) - MARGIN * unclipped
        # It only grows from here on: once it alone is worse than the best, so is all that follows.
        if errors and bool(((clipped > best) | (best == 0)).all()):
            break
    if spec.symmetric:
        return best_low, best_high
    near, far = torch.minimum(-low, high), torch.maximum(-low, high)
    lopsided = (near > 0) & (far > LOPSIDED * near)
    for share in _falling(torch.tensor(1.0)) if lopsided.any() else []:
        limit = torch.where(lopsided, far * share, far)
        attempt(torch.maximum(low, -limit), torch.minimum(high, limit))
    for shares in (
        torch.linspace(0, 1.5, 16),
        *(torch.linspace(1 - s, 1 + s, 9) for s in (0.12, 0.04)),
    ):
        at_low, at_high = best_low.clone(), best_high.clone()
        for share in shares:
            attempt(at_low, at_high * share)
        at_low, at_high = best_low.clone(), best_high.clone()
        for share in shares:
            attempt(at_low * share, at_high)
    return best_low, best_high


def _falling(start: torch.Tensor) -> list[torch.Tensor]:
    """Shares below `start`, each nine tenths of the one before, down to `SHORTEST`."""
    shares = []
    while start > SHORTEST:
        start = start * 0.9
        shares.append(start)
    return shares
