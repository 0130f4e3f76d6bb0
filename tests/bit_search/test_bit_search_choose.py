from __future__ import annotations

import itertools
import random

import pytest

from subbyte.bit_search.choose import Chosen, Option, Shared, Unit, cheapest, least_loss


def units(seed: int, count: int = 5, options: int = 4) -> list[Unit]:
    draw = random.Random(seed)
    return [
        Unit(
            f"layer{i}",
            tuple(
                Option(bits, None, draw.uniform(1, 100), draw.uniform(0, 10))
                for bits in (2, 3, 4, 8)[:options]
            ),
        )
        for i in range(count)
    ]


def best_by_trying_all(given: list[Unit], most: float) -> float | None:
    costs = []
    for chosen in itertools.product(*(unit.options for unit in given)):
        ties: dict[str, set[int | None]] = {}
        for unit, option in zip(given, chosen, strict=True):
            ties.setdefault(unit.tied or unit.name, set()).add(option.activations)
        if sum(o.loss for o in chosen) <= most and all(len(bits) == 1 for bits in ties.values()):
            costs.append(sum(option.cost for option in chosen))
    return min(costs, default=None)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [3.0, 12.0, 25.0])
def test_no_choice_is_cheaper(seed: int, most: float) -> None:
    given = units(seed)
    expected = best_by_trying_all(given, most)
    found = cheapest(given, most)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.loss <= most * (1 + 1e-6)
        assert found.cost == pytest.approx(expected, rel=1e-3)
        assert len(found.options) == len(given)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [5.0, 15.0, float("inf")])
def test_what_is_shared_is_paid_once_and_only_where_it_is_needed(seed: int, most: float) -> None:
    draw = random.Random(seed)
    tables = {bits: Shared(f"{bits} bits", draw.uniform(5, 60)) for bits in (2, 3, 5)}
    given = [
        Unit(
            f"layer{i}",
            tuple(
                Option(bits, None, bits * draw.uniform(5, 10), 8.0 / bits**2, tables.get(bits))
                for bits in (2, 3, 4, 5, 8)
            ),
        )
        for i in range(4)
    ]
    # Counted here by hand, and not by `Chosen.cost`.
    costs = [
        sum(o.cost for o in chosen)
        + sum(tables[b].cost for b in {o.weights for o in chosen} & {*tables})
        for chosen in itertools.product(*(unit.options for unit in given))
        if sum(o.loss for o in chosen) <= most
    ]
    found = cheapest(given, most)
    assert found is not None
    assert found.cost == pytest.approx(min(costs), rel=1e-3)


def test_the_least_loss_knows_what_it_shares() -> None:
    table = Shared("3 bits", 7.0)
    given = [
        Unit(f"layer{i}", (Option(3, None, 1.0, 0.5, table), Option(2, None, 1.0, 2.0)))
        for i in (0, 1)
    ]
    assert least_loss(given) == Chosen((given[0].options[0], given[1].options[0]))
    assert least_loss(given).cost == 9.0


@pytest.mark.parametrize("seed", range(5))
def test_units_that_are_tied_have_the_same_bits_of_activations(seed: int) -> None:
    draw = random.Random(seed)
    given = [
        Unit(
            f"layer{i}",
            tuple(
                Option(w, a, draw.uniform(1, 50), draw.uniform(0, 5))
                for w in (2, 8)
                for a in (4, 8)
            ),
            "shared" if i < 3 else "",
        )
        for i in range(4)
    ]
    # A unit that is tied to none is free.
    given[3] = Unit("layer3", given[3].options, "own")
    found = cheapest(given, 8.0)
    expected = best_by_trying_all(given, 8.0)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert len({option.activations for option in found.options[:3]}) == 1
    assert found.cost == pytest.approx(expected, rel=1e-3)


def test_the_least_loss_takes_the_cheapest_of_what_loses_as_little() -> None:
    given = [
        Unit("a", (Option(2, None, 1.0, 4.0), Option(4, None, 3.0, 0.0), Option(8, None, 9.0, 0.0)))
    ]
    assert least_loss(given).options[0].weights == 4


def test_without_a_limit_everything_is_as_cheap_as_it_can_be() -> None:
    given = units(3)
    found = cheapest(given, float("inf"))
    assert found is not None
    assert found.cost == pytest.approx(sum(min(o.cost for o in u.options) for u in given))
