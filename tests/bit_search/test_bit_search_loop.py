"""The loop on a made-up model, of which everything is known."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from subbyte.bit_search.choose import Chosen, Option, Unit, cheapest
from subbyte.bit_search.error_model import Point, estimate, expected_for, lost_per_loss
from subbyte.bit_search.loop import Goal, Tried, search
from subbyte.tasks.metrics.paired import Paired


def made_up(count: int = 20) -> list[Unit]:
    draw = random.Random(1)
    units = []
    for i in range(count):
        size, weight = draw.uniform(1, 10), 10 ** draw.uniform(-2, 0)
        options = tuple(
            Option(b, None, size * b, weight * 4.0 ** (2 - b)) for b in (2, 3, 4, 5, 6, 8)
        )
        units.append(Unit(f"layer{i}", options))
    return units


@dataclass
class MadeUp:
    """Configurations lose `slope` · (`ratio` · sum)^0.8 of the metric, and noise."""

    slope: float
    ratio: float
    noise: float
    built: list[Chosen] = field(default_factory=list)
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def loss(self, chosen: Chosen) -> float:
        return (self.ratio * chosen.loss) ** 0.8

    def lost(self, chosen: Chosen) -> float:
        return self.slope * self.loss(chosen)

    def assembled(self, chosen: Chosen) -> Point:
        return Point(chosen.loss, chosen.loss, 4 * self.slope * chosen.loss, 0.003, built=False)

    def tried(self, chosen: Chosen, told: str) -> Tried:
        assert told.startswith("configuration")
        self.built.append(chosen)
        lost = self.lost(chosen) + self.draw.gauss(0, self.noise)
        paired = Paired(0.8, 0.8 - lost, max(self.noise, 1e-4), 5000)
        return Tried(chosen, paired, self.loss(chosen), chosen.cost, 1.0)


def goal(budget: float, builds: int = 6, sure: float = 0.0) -> Goal:
    return Goal(budget, sure, builds, 6.0, None, lambda cost: f"{cost:.0f}")


@pytest.mark.parametrize("ratio", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("slope", [0.01, 0.05, 0.3])
def test_a_handful_of_builds_comes_near_the_cheapest(ratio: float, slope: float) -> None:
    units, bench = made_up(), MadeUp(slope, ratio, 0.0)
    tried, best = search(units, bench, goal(0.005))
    assert best is not None
    assert len(tried) <= 6
    assert bench.lost(best.chosen) <= 0.005 * 1.01
    # The sum at which just the budget is lost, and the cheapest configuration there.
    most = (0.005 / slope) ** (1 / 0.8) / ratio
    optimum = cheapest(units, most)
    assert optimum is not None
    assert best.cost <= 1.12 * optimum.cost


@pytest.mark.slow
def test_what_is_measured_with_noise_is_not_taken_at_its_word() -> None:
    budget, missed = 0.005, 0
    for seed in range(10):
        bench = MadeUp(0.05, 0.4, 0.003, draw=random.Random(seed))
        _, best = search(made_up(), bench, goal(budget))
        assert best is not None
        missed += bench.lost(best.chosen) > budget * 1.2
    assert missed <= 3


class Saturated(MadeUp):
    """Put together, configurations lose six times as much, up to all there is to lose."""

    def assembled(self, chosen: Chosen) -> Point:
        loss = 6 * self.loss(chosen)
        return Point(chosen.loss, min(20, loss), min(0.8, self.slope * loss), 0.01, built=False)


def test_what_loses_everything_says_little_of_what_loses_little() -> None:
    units, bench = made_up(), Saturated(0.02, 50.0, 0.0)
    search(units, bench, goal(0.01))
    optimum = cheapest(units, (0.01 / 0.02) ** (1 / 0.8) / 50)
    assert optimum is not None
    assert bench.built[0].cost <= 1.3 * optimum.cost


def test_where_nothing_holds_the_budget_the_one_that_loses_least_is_kept() -> None:
    bench = MadeUp(1000.0, 1.0, 0.0)
    tried, best = search(made_up(), bench, goal(1e-6))
    assert best is not None
    assert bench.lost(best.chosen) == min(bench.lost(one.chosen) for one in tried)


def test_where_nothing_is_lost_the_cheapest_of_all_is_found() -> None:
    units = made_up()
    _, best = search(units, MadeUp(0.0, 1.0, 0.0), goal(0.005))
    assert best is not None
    assert best.cost == pytest.approx(sum(u.options[0].cost for u in units))


def test_a_deadline_that_has_passed_builds_nothing() -> None:
    passed = Goal(0.005, 0.0, 6, 6.0, 0.0, lambda cost: "")
    assert search(made_up(), MadeUp(0.05, 0.4, 0.0), passed) == ([], None)


def test_the_slope_is_that_near_the_loss() -> None:
    points = [Point(1, 0.01, 0.001, 1e-4), Point(10, 1.0, 0.5, 1e-4)]
    assert lost_per_loss(points, 0.01) == pytest.approx(0.1, rel=0.05)
    assert lost_per_loss(points, 1.0) == pytest.approx(0.5, rel=0.05)
    assert lost_per_loss([], 1.0) is None


def test_the_sum_follows_what_was_built() -> None:
    points = [Point(x, 0.2 * x, 0.0, 1e-3) for x in (0.1, 0.2, 0.4)]
    assert expected_for(points, 0.06) == pytest.approx(0.3, rel=0.05)


def test_an_estimate_is_between_what_was_measured_and_what_the_loss_makes_likely() -> None:
    points = [Point(1, 0.1, 0.010, 1e-4), Point(1, 0.1, 0.002, 0.004)]
    lost, error = estimate(points[1], points)
    assert 0.002 < lost < 0.010
    assert error < 0.004


def test_the_first_is_no_larger_than_four_bits_everywhere() -> None:
    """Tuning leaves a hundredth of what is lost, not a sixth: a guess by that is too careful."""
    units = made_up()
    bench = MadeUp(10.0, 0.01, 0.0)
    search(units, bench, goal(0.001))
    of_four = sum(o.cost for unit in units for o in unit.options if o.weights == 4)
    assert bench.built[0].cost <= of_four


def test_eight_bits_everywhere_are_tried_before_layers_in_float() -> None:
    """Float costs four times as much; with 8 bits nothing is lost, with 7 everything."""
    options = (
        Option(2, None, 2.0, 1.0),
        Option(8, None, 8.0, 0.1),
        Option(None, None, 32.0, 0.0),
    )
    units = [Unit(f"layer{i}", options) for i in range(6)]

    class Cliff(MadeUp):
        def lost(self, chosen: Chosen) -> float:
            return 0.5 if any(o.weights == 2 for o in chosen.options) else 0.0

    bench = Cliff(1.0, 1.0, 0.0)
    _, best = search(units, bench, goal(0.01))
    assert best is not None
    assert best.cost == 48
    assert all(None not in [o.weights for o in one.options] for one in bench.built)
