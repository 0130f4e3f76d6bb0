"""Powell's method against minima that are known."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import scipy.optimize

from subbyte.methods.scale_search.powell import powell

Array = np.ndarray


def quadratic(seed: int, size: int) -> tuple[Array, Array]:
    """A positive definite matrix and a place for the minimum."""
    random = np.random.default_rng(seed)
    root = random.normal(size=(size, size))
    return root @ root.T + 0.5 * np.eye(size), random.normal(size=size)


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_minimum_of_a_quadratic(seed: int) -> None:
    matrix, minimum = quadratic(seed, 6)

    def loss(x: Array) -> float:
        return float((x - minimum) @ matrix @ (x - minimum)) + 3

    start = np.zeros(6)
    *_, (found, value) = powell(loss, start, loss(start), step=0.3, tolerance=1e-12)
    assert value == loss(found)
    assert value == pytest.approx(3, abs=1e-4)
    assert found == pytest.approx(minimum, abs=0.02)
    theirs = scipy.optimize.minimize(loss, start, method="Powell")
    assert value <= theirs.fun + 1e-4


def test_a_quadratic_along_the_axes_takes_three_evaluations_an_axis() -> None:
    places: list[Array] = []

    def loss(x: Array) -> float:
        places.append(x)
        return float(np.square(x - [0.15, -0.05]).sum())

    search = powell(loss, np.zeros(2), loss(np.zeros(2)), step=0.1, tolerance=0)
    found = [next(search) for _ in range(6)][-1]
    assert len(places) == 7
    assert found[0] == pytest.approx([0.15, -0.05])


def test_what_it_yields_never_gets_worse_and_a_start_without_gain_ends_it() -> None:
    random = np.random.default_rng(0)

    def rough(x: Array) -> float:
        return float(np.square(x).sum() + 0.3 * random.random())

    values = [value for _, value in powell(rough, np.ones(3), 3.3, step=0.5, tolerance=1e-3)]
    assert values == sorted(values, reverse=True)
    flat = list(powell(lambda x: 1.0, np.ones(3), 1.0, step=0.5, tolerance=1e-3))
    assert all(value == 1.0 and (place == 1).all() for place, value in flat)
    assert len(flat) < 10


def test_places_where_the_loss_is_no_number_are_left() -> None:
    def walled(x: Array) -> float:
        return float("inf") if x[0] > 0.25 else float(np.square(x - 0.2).sum())

    *_, (found, _) = powell(walled, np.zeros(2), walled(np.zeros(2)), step=0.2, tolerance=1e-9)
    assert found == pytest.approx([0.2, 0.2], abs=0.01)


def test_rounds_end_the_search() -> None:
    def loss(point: np.ndarray) -> float:
        return float(((point - [3.0, -2.0]) ** 2).sum() + (point[0] * point[1]) ** 2 / 10)

    start = np.zeros(2)

    def found(rounds: int | None) -> list[float]:
        steps = powell(loss, start, loss(start), step=0.1, tolerance=0.0, rounds=rounds)
        return [value for _, value in islice(steps, 400)]

    assert len(found(1)) < len(found(2)) < len(found(None))
    assert found(2)[: len(found(1))] == found(1)
