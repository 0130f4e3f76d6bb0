"""Which layer gets how many bits: an integer programme over costs and losses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

SECONDS = 20.0  # for one programme; what is best by then is taken
GAP = 1e-4  # of the cost, within which a solution need not be the best


@dataclass(frozen=True)
class Option:
    """What a layer may be.

    Attributes:
        weights: Bits of its weight; `None`: float.
        activations: Bits of what it reads; `None`: float.
        cost: In the units of the objective.
        loss: What it is expected to add to the output loss.
    """

    weights: int | None
    activations: int | None
    cost: float
    loss: float


@dataclass(frozen=True)
class Unit:
    """A layer, or layers that are decided together.

    Attributes:
        name: The layer's qualified name.
        options: What it may be.
        tied: Units of the same name here read one tensor, and have the same bits of activations;
            empty: none has to.
    """

    name: str
    options: tuple[Option, ...]
    tied: str = ""


@dataclass(frozen=True)
class Chosen:
    """An option for each unit.

    Attributes:
        options: In the order of the units.
    """

    options: tuple[Option, ...]

    @property
    def cost(self) -> float:
        """The sum of the costs."""
        return sum(option.cost for option in self.options)

    @property
    def loss(self) -> float:
        """The sum of the expected losses."""
        return sum(option.loss for option in self.options)


def cheapest(units: Sequence[Unit], most_loss: float) -> Chosen | None:
    """The options of the least cost whose losses sum up to no more than `most_loss`.

    Args:
        units: What is to be decided.
        most_loss: The limit.

    Returns:
        `None` where there are none.
    """
    options = [option for unit in units for option in unit.options]
    costs = np.array([option.cost for option in options], np.float64)
    losses = np.array([option.loss for option in options], np.float64)
    scale = max(float(np.abs(costs).max(initial=0.0)), 1e-30)
    limit = max(most_loss, 0.0)
    worst = max(float(losses.max(initial=0.0)), 1e-30)
    unit_loss = limit if 0 < limit < float("inf") else worst
    constraints = [LinearConstraint(_of_each(units), 1, 1)]
    if limit < float("inf"):
        constraints.append(LinearConstraint(losses[None] / unit_loss, -np.inf, limit / unit_loss))
    ties = _ties(units)
    if ties is not None:
        constraints.append(LinearConstraint(ties, 0, 0))
    # Between options of the same cost, the one of the smaller loss.
    objective = costs / scale + 1e-7 * losses / worst
    with _without_stdout():
        found = milp(
            objective,
            constraints=constraints,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, 1),
            options={"time_limit": SECONDS, "mip_rel_gap": GAP},
        )
    if found.x is None:
        return None
    return Chosen(tuple(options[i] for i in np.flatnonzero(np.asarray(found.x) > 0.5)))


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Nothing is printed meanwhile: HiGHS leaves messages of its own in C++'s standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def least_loss(units: Sequence[Unit]) -> Chosen:
    """The options of the least loss, the cheapest of them, whatever they cost together."""
    swapped = [
        Unit(unit.name, tuple(_swapped(option) for option in unit.options), unit.tied)
        for unit in units
    ]
    found = cheapest(swapped, float("inf"))
    assert found is not None  # all limits hold
    return Chosen(tuple(_swapped(option) for option in found.options))


def _swapped(option: Option) -> Option:
    return Option(option.weights, option.activations, option.loss, option.cost)


def _of_each(units: Sequence[Unit]) -> csr_array:
    """A row for each unit that counts how many of its options are chosen."""
    lengths = [len(unit.options) for unit in units]
    rows = np.repeat(np.arange(len(units)), lengths)
    columns = np.arange(len(rows))
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(units), len(rows)))


def _ties(units: Sequence[Unit]) -> csr_array | None:
    """Rows that are 0 where units that are tied have the same bits of activations."""
    starts = np.cumsum([0, *(len(unit.options) for unit in units)])
    first: dict[str, int] = {}
    entries: list[tuple[int, int, float]] = []
    row = 0
    for i, unit in enumerate(units):
        if not unit.tied or first.setdefault(unit.tied, i) == i:
            continue
        leader = first[unit.tied]
        widths = {o.activations for k in (leader, i) for o in units[k].options}
        for bits in sorted(widths, key=str):
            for k, sign in ((leader, 1.0), (i, -1.0)):
                own = enumerate(units[k].options)
                entries += [
                    (row, int(starts[k]) + j, sign) for j, o in own if o.activations == bits
                ]
            row += 1
    if not entries:
        return None
    rows, columns, values = zip(*entries, strict=True)
    return csr_array((values, (rows, columns)), shape=(row, int(starts[-1])))
