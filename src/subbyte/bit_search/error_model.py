"""From what layers lose alone to what a configuration loses: corrected by what was built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

REACH = 0.7  # of a point, in e-fold distances from the target, within which it counts most
PRIOR = 1.0  # weight of a slope of 1 beside the points
SHARE_UNSURE = 0.3  # of what the loss makes likely to be lost, its standard error
LEAST_ERRORS = 0.25  # standard errors that each configuration is taken to lose at least
TINY = 1e-12


@dataclass(frozen=True)
class Point:
    """A configuration that was measured.

    Attributes:
        expected: The sum of what its layers lose alone, in the output loss.
        loss: Its output loss.
        lost: What it loses of the metric, as a fraction.
        error: The standard error of that.
        built: By the recipe, and not put together of what was solved once.
    """

    expected: float
    loss: float
    lost: float
    error: float
    built: bool = True


def lost_per_loss(points: Sequence[Point], near: float, optimism: float = 0.0) -> float | None:
    """How much of the metric goes with a unit of the output loss, around a loss.

    Tuned networks lose less of the metric with the same loss than others: what is put together says
    something only as long as nothing is built.

    Args:
        points: What was measured.
        near: The loss; points far from it count less.
        optimism: Standard errors by which it is taken to be less, but to a fourth at most.

    Returns:
        `None` where nothing says so, or nothing is lost.
    """
    over = under = 0.0
    for point in [p for p in points if p.built] or points:
        distance = math.log(max(point.loss, TINY) / max(near, TINY)) / REACH
        weight = math.exp(-distance * distance / 2) / max(point.error, TINY) ** 2
        lost = max(point.lost, LEAST_ERRORS * point.error)  # that nothing is lost is chance
        over += weight * lost * point.loss
        under += weight * point.loss * point.loss
    if not under > 0 or not over > 0:
        return None
    slope = over / under
    return max(slope - optimism / math.sqrt(under), slope / 4)


def expected_for(points: Sequence[Point], loss: float) -> float:
    """The sum of layers' losses at which a configuration's own loss is so much.

    A line through the logarithms, with a slope near 1.

    Args:
        points: What was measured.
        loss: The loss that is wanted.
    """
    known = [p for p in points if p.expected > TINY and p.loss > TINY]
    built = [p for p in known if p.built] or known
    if not built:
        return loss
    target = math.log(max(loss, TINY))
    weights = [math.exp(-(((math.log(p.loss) - target) / REACH) ** 2) / 2) + 1e-3 for p in built]
    total = sum(weights)
    x = [math.log(p.expected) for p in built]
    y = [math.log(p.loss) for p in built]
    mean_x = sum(w * v for w, v in zip(weights, x, strict=True)) / total
    mean_y = sum(w * v for w, v in zip(weights, y, strict=True)) / total
    rows = list(zip(weights, x, y, strict=True))
    spread = sum(w * (a - mean_x) ** 2 for w, a, _ in rows)
    joint = sum(w * (a - mean_x) * (b - mean_y) for w, a, b in rows)
    slope = min(2.0, max(0.3, (joint + PRIOR * total * 0.1) / (spread + PRIOR * total * 0.1)))
    return math.exp(mean_x + (target - mean_y) / slope)


def estimate(point: Point, points: Sequence[Point]) -> tuple[float, float]:
    """What a configuration loses of the metric, by its own images and by its output loss.

    The two are averaged by how sure each is. What a configuration loses on some hundred images is
    noisy, and the best of several looks better than it is.

    Returns:
        What is lost, and its standard error.
    """
    slope = lost_per_loss(points, point.loss)
    if slope is None:
        return point.lost, point.error
    likely = slope * point.loss
    unsure = max(SHARE_UNSURE * likely, TINY)
    own, other = 1 / max(point.error, TINY) ** 2, 1 / unsure**2
    return (own * point.lost + other * likely) / (own + other), math.sqrt(1 / (own + other))
