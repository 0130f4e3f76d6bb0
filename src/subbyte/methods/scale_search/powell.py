"""Powell's method: a minimum without gradients, line by line along directions that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from itertools import count

import numpy as np

PointLoss = Callable[[np.ndarray], float]

NARROWEST = 0.1  # of the first step: below it losses of quantized networks differ by rounding alone
FARTHEST = 3  # steps that a line search goes at once


def powell(
    loss: PointLoss,
    start: np.ndarray,
    value: float,
    *,
    step: float,
    tolerance: float,
    rounds: int | None = None,
) -> Iterator[tuple[np.ndarray, float]]:
    """Minimize a function of a vector; yield the best point and its loss at each moment.

    Powell 1964, "An efficient method for finding the minimum of a function of several variables
    without calculating derivatives": lines along n directions, at first the axes; after each round
    the way it has gone takes the place of the direction that gained most, where his criterion says
    that this keeps the directions independent. A line search is a parabola through three points and
    the try of its lowest one: three evaluations, where exact ones take ten.

    Args:
        loss: What is minimized.
        start: Where the search begins, (n,).
        value: The loss there.
        step: The width of the first line searches; a direction's follows what it last moved.
        tolerance: The search ends when a round gains less than this share of the loss.
        rounds: After how many rounds it ends in any case; `None`: after no number of them.
    """
    best, lowest = start.copy(), value
    directions = list(np.eye(len(start)))
    steps = [step] * len(start)
    for _ in count() if rounds is None else range(rounds):
        before, at_first, gains = best.copy(), lowest, np.zeros(len(start))
        for i, direction in enumerate(directions):
            moved, found = yield from _line(loss, best, lowest, direction, steps[i])
            gains[i] = lowest - found
            best, lowest = best + moved * direction, found
            width = abs(moved) if moved else steps[i] / 2
            steps[i] = min(max(width, steps[i] / 2, NARROWEST * step), 2 * steps[i])
        if at_first - lowest <= tolerance * abs(at_first):
            return
        way, most = best - before, int(gains.argmax())
        beyond = loss(best + way)
        replaces = _is_new(at_first, lowest, beyond, gains[most])
        if beyond < lowest:
            best, lowest = best + way, beyond
        yield best, lowest
        if replaces:
            length = float(np.linalg.norm(way))
            moved, lowest = yield from _line(loss, best, lowest, way / length, length)
            best = best + moved * way / length
            directions = [*directions[:most], *directions[most + 1 :], way / length]
            steps = [*steps[:most], *steps[most + 1 :], max(length / 2, NARROWEST * step)]


def _line(
    loss: PointLoss, start: np.ndarray, value: float, direction: np.ndarray, step: float
) -> Generator[tuple[np.ndarray, float], None, tuple[float, float]]:
    """How far to go along `direction`, and the loss there; 0 and `value` if nothing is gained."""
    points = [(0.0, value)]

    def attempt(distance: float) -> tuple[np.ndarray, float]:
        points.append((distance, loss(start + distance * direction)))
        moved, found = min(points, key=lambda point: point[1])
        return start + moved * direction, found

    yield attempt(step)
    yield attempt(2 * step if points[1][1] < value else -step)
    lowest = _vertex(points)
    if lowest is not None:
        lowest = min(max(lowest, -FARTHEST * step), FARTHEST * step)
        if min(abs(lowest - distance) for distance, _ in points) > step / 10:
            yield attempt(lowest)
    return min(points, key=lambda point: point[1])


def _vertex(points: list[tuple[float, float]]) -> float | None:
    """Where the parabola through three points is lowest; `None` where it has no lowest point."""
    (a, fa), (b, fb), (c, fc) = sorted(points)
    if not (math.isfinite(fa) and math.isfinite(fb) and math.isfinite(fc)):
        return None
    left, right = (fb - fa) / (b - a), (fc - fb) / (c - b)
    if right <= left:
        return None
    return (a + b) / 2 - left * (c - a) / (2 * (right - left))


def _is_new(first: float, last: float, beyond: float, most: float) -> bool:
    """Powell's criterion: whether the way of a round is to take the place of a direction."""
    curved = 2 * (first - 2 * last + beyond) * (first - last - most) ** 2
    return beyond < first and curved < most * (first - beyond) ** 2
