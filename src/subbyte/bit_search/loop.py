"""Build what the integer programme chose, measure it, correct the model of the error, solve again.

The output loss of a configuration is taken to grow with the sum of what its layers lose alone, and
what is lost of the metric with its output loss. Both are corrected by every configuration that was
built.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from subbyte.bit_search.choose import Chosen, Unit, cheapest, least_loss, widest
from subbyte.bit_search.error_model import Point, estimate, expected_for, lost_per_loss
from subbyte.tasks.metrics.paired import Paired

# Shares of the loss of the cheapest configuration at which some are put together.
ASSEMBLED = (1.0, 0.25, 0.06, 0.015, 0.004, 0.001)
SPARE_ERRORS = 0.5  # standard errors by which less is lost than the budget, where that can be
MOST_SPARE = 0.5  # of the budget
SHARES = (0.5, 0.75, 0.25, 0.9)  # of the way between what is good and what is not, in logarithms
# Standard errors by which less is taken to be lost where the next configuration is chosen: one that
# loses too much says more of what is between than another one that loses little.
OPTIMISM = 1.0
FIRST_BITS = 4  # the first configuration may lose as much as weights of so many bits everywhere
TINY = 1e-9
ENOUGH = 0.004  # share of the cost below which a cheaper configuration is not worth a build


@dataclass(frozen=True)
class Tried:
    """A configuration that was built and measured.

    Attributes:
        chosen: Its options, in the order of the units.
        paired: Its metric beside the float model's, on the images that search.
        loss: Its output loss.
        cost: In the units of the objective, measured.
        seconds: How long building and measuring took.
    """

    chosen: Chosen
    paired: Paired
    loss: float
    cost: float
    seconds: float

    @property
    def point(self) -> Point:
        """What corrects the model of the error."""
        return Point(self.chosen.loss, self.loss, self.paired.lost, self.paired.error)


class Bench(Protocol):
    """Builds and measures configurations."""

    def assembled(self, chosen: Chosen) -> Point:
        """What a configuration loses that is put together of what was solved once."""
        ...

    def tried(self, chosen: Chosen, told: str) -> Tried:
        """Build a configuration by its recipe, and measure it.

        Args:
            chosen: The configuration.
            told: What progress says beside.
        """
        ...


@dataclass(frozen=True)
class Goal:
    """What is asked for.

    Attributes:
        budget: What may be lost, as a fraction.
        sure: Standard errors that are added to what is lost before it is compared with the budget.
        builds: How many configurations are built at most.
        gain: How many times as much a configuration loses that is only put together, as one that
            is built, before anything is known of it.
        deadline: When no further one is begun, by `time.monotonic`; `None`: never.
        show: A cost as text.
    """

    budget: float
    sure: float
    builds: int
    gain: float
    deadline: float | None
    show: Callable[[float], str]

    @property
    def is_over(self) -> bool:
        """Whether the time has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass
class _State:
    """What is known so far.

    Attributes:
        units: What is decided.
        goal: What is asked for.
        points: What corrects the model of the error.
        tried: What was built.
    """

    units: Sequence[Unit]
    goal: Goal
    points: list[Point] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)

    def within(self, one: Tried) -> bool:
        """Whether a configuration is taken to hold the budget."""
        lost, _ = estimate(one.point, self.points)
        return max(lost, 0.0) + self.goal.sure * one.paired.error <= self.goal.budget

    def best(self) -> Tried | None:
        """The cheapest one within the budget; where there is none, the one that loses least."""
        good = [one for one in self.tried if self.within(one)]
        if good:
            return min(good, key=lambda one: one.cost)
        return min(self.tried, key=lambda one: estimate(one.point, self.points)[0], default=None)


def search(
    units: Sequence[Unit], bench: Bench, goal: Goal, first: Sequence[Chosen] = ()
) -> tuple[list[Tried], Tried | None]:
    """Find the cheapest configuration within the budget.

    Args:
        units: What is decided.
        bench: Builds and measures.
        goal: What is asked for.
        first: Configurations to build before any other.

    Returns:
        What was built, in this order, and the best of it; `None` where the time passed before.
    """
    state = _State(units, goal)
    least, most = least_loss(units), _cheapest_of_all(units)
    if most.cost < least.cost and not first:
        state.points = _assembled(units, bench, goal, most)
    for i in range(goal.builds):
        if goal.is_over:
            break
        chosen = first[i] if i < len(first) else _next(state, least, most)
        if chosen is None:
            break
        state.tried.append(bench.tried(chosen, _told(state, i)))
        state.points.append(state.tried[-1].point)
    return state.tried, state.best()


def _cheapest_of_all(units: Sequence[Unit]) -> Chosen:
    found = cheapest(units, float("inf"))
    assert found is not None  # without a limit there is one
    return found


def _assembled(units: Sequence[Unit], bench: Bench, goal: Goal, most: Chosen) -> list[Point]:
    """A few configurations put together, from the cheapest on.

    The last one loses about as much as is taken to be left of it when it is built: from
    configurations that lose everything nothing can be told of those that lose little.
    """
    points: list[Point] = []
    for share in ASSEMBLED:
        chosen = cheapest(units, share * most.loss)
        if chosen is None or goal.is_over:
            break
        points.append(bench.assembled(chosen))
        if points[-1].lost <= goal.gain * goal.budget:
            break
    return [Point(p.expected, p.loss, p.lost, p.error, built=False) for p in points]


def _next(state: _State, least: Chosen, most: Chosen) -> Chosen | None:
    """The configuration to build next; `None` where none is worth it."""
    good = [one for one in state.tried if state.within(one)]
    low = max((one.chosen.loss for one in good), default=0.0)
    # What loses too much bounds the sum from above, if it loses more than what is good.
    bad = [one.chosen.loss for one in state.tried if one not in good and one.chosen.loss > low]
    high = min(bad, default=float("inf"))
    best = min(good, key=lambda one: one.cost, default=None)
    wanted = _wanted(state, least, most)
    if not state.tried:
        wanted = max(wanted, min(_uniform_loss(state.units), most.loss))
    for limit in _proposals(wanted, low, high, (least, most)):
        chosen = _no_dearer(cheapest(state.units, limit) or least, state)
        if any(chosen.bits == one.chosen.bits for one in state.tried):
            continue
        if best is not None and best.chosen.cost - chosen.cost < ENOUGH * best.cost:
            continue
        return chosen
    return None


def _no_dearer(chosen: Chosen, state: _State) -> Chosen:
    """A configuration, or 8 bits everywhere, while nothing is known of these and they are cheaper.

    They nearly always hold a budget. Layers in float, which may cost more, are for where they do
    not.
    """
    whole = widest(state.units)
    known = any(one.chosen.bits == whole.bits for one in state.tried)
    return chosen if known or chosen.cost <= whole.cost else whole


def _proposals(
    wanted: float, low: float, high: float, ends: tuple[Chosen, Chosen]
) -> Iterator[float]:
    """Sums of layers' losses to try, the likeliest first.

    Args:
        wanted: What the model of the error says.
        low: The largest with which little enough was lost; 0: none.
        high: The smallest beyond with which too much was lost; infinite: none.
        ends: The configurations of the least loss and of the least cost.
    """
    least, most = ends
    top, bottom = min(high, most.loss), max(low, least.loss, TINY)
    if low <= wanted < high:
        yield max(wanted, least.loss)
    for share in SHARES:
        yield float(bottom ** (1 - share) * top**share)
    if high == float("inf"):
        yield most.loss
    if not low:
        yield least.loss


def _wanted(state: _State, least: Chosen, most: Chosen) -> float:
    """The sum of layers' losses at which just as much is lost as may be."""
    goal, points = state.goal, state.points
    error = max((p.error for p in points if p.error < float("inf")), default=0.0)
    spare = max(goal.sure, SPARE_ERRORS) * error
    aim = goal.budget - min(spare, MOST_SPARE * goal.budget)
    if not state.tried:
        aim *= goal.gain
    loss = points[-1].loss if points else most.loss
    for _ in range(5):  # the slope is that around the loss itself
        slope = lost_per_loss(points, loss, OPTIMISM)
        if slope is None:
            return most.loss
        loss = aim / slope
    return min(max(expected_for(points, loss), least.loss), most.loss)


def _uniform_loss(units: Sequence[Unit]) -> float:
    """The sum of layers' losses with 4 bits everywhere, or as many as there are below.

    How much is left of a loss when a network is tuned differs twentyfold between networks, so that
    the first guess may be far too careful. That 4 bits are about right is known of most.
    """
    losses = [
        [(o.weights, o.activations or 0, -o.loss) for o in unit.options if o.weights is not None]
        for unit in units
    ]
    narrow = [[o for o in options if o[0] <= FIRST_BITS] for options in losses]
    return sum(-max(options)[2] for options in narrow if options)


def _told(state: _State, i: int) -> str:
    """What progress says of the configuration that comes next."""
    good = [one for one in state.tried if state.within(one)]
    best = ""
    if good:
        one = min(good, key=lambda one: one.cost)
        best = f", best {state.goal.show(one.cost)} with {100 * one.paired.lost:.2f} points lost"
    return f"configuration {i + 1} of {state.goal.builds}{best}"


def as_plain(one: Tried, units: Sequence[Unit]) -> dict[str, Any]:
    """What `frontier.json` says of a configuration, and what is kept of it to go on.

    Args:
        one: The configuration.
        units: What was decided.
    """
    pairs = zip(units, one.chosen.options, strict=True)
    activations = {u.name: o.activations for u, o in pairs if o.activations is not None}
    return {
        "weights": {u.name: o.weights for u, o in zip(units, one.chosen.options, strict=True)},
        **({"activations": activations} if activations else {}),
        "cost": one.cost,
        "expected_cost": one.chosen.cost,
        "expected_loss": one.chosen.loss,
        "loss": one.loss,
        "float_metric": one.paired.before,
        "metric": one.paired.after,
        "lost": one.paired.lost,
        "error": one.paired.error,
        "images": one.paired.images,
        "seconds": round(one.seconds, 1),
    }
