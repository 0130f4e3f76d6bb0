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
class Shared:
    """What options cost once, however many of them are chosen.

    Attributes:
        name: Of what they share.
        cost: In the units of the objective.
    """

    name: str
    cost: float


@dataclass(frozen=True)
class Option:
    """What a layer may be.

    Attributes:
        weights: Bits of its weight; `None`: float.
        activations: Bits of what it reads; `None`: float.
        cost: In the units of the objective.
        loss: What it is expected to add to the output loss.
        shared: What it needs that others may need too; `None`: nothing.
    """

    weights: int | None
    activations: int | None
    cost: float
    loss: float
    shared: Shared | None = None

    @property
    def bits(self) -> tuple[int | None, int | None]:
        """Of the weight and of what the layer reads."""
        return self.weights, self.activations


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
        """The sum of the costs, what is shared counted once."""
        shared = {option.shared for option in self.options if option.shared is not None}
        return sum(option.cost for option in self.options) + sum(one.cost for one in shared)

    @property
    def bits(self) -> tuple[tuple[int | None, int | None], ...]:
        """What is chosen, whatever it costs."""
        return tuple(option.bits for option in self.options)

    @property
    def loss(self) -> float:
        """The sum of the expected losses."""
        return sum(option.loss for option in self.options)


def widest(units: Sequence[Unit]) -> Chosen:
    """The most bits of everything that may be on integers, in its cheapest form."""

    def rank(option: Option) -> tuple[int, int, float]:
        return option.weights or 0, option.activations or 0, -option.cost

    return Chosen(tuple(max(unit.options, key=rank) for unit in units))


def cheapest(units: Sequence[Unit], most_loss: float) -> Chosen | None:
    """The options of the least cost whose losses sum up to no more than `most_loss`.

    Args:
        units: What is to be decided.
        most_loss: The limit.

    Returns:
        `None` where there are none.
    """
    options = [option for unit in units for option in unit.options]
    shared = list(dict.fromkeys(o.shared for o in options if o.shared is not None))
    costs = np.array([o.cost for o in options] + [one.cost for one in shared], np.float64)
    losses = np.array([option.loss for option in options] + [0.0] * len(shared), np.float64)
    scale = max(float(np.abs(costs).max(initial=0.0)), 1e-30)
    limit = max(most_loss, 0.0)
    worst = max(float(losses.max(initial=0.0)), 1e-30)
    unit_loss = limit if 0 < limit < float("inf") else worst
    constraints = [LinearConstraint(_of_each(units, len(shared)), 1, 1)]
    if limit < float("inf"):
        constraints.append(LinearConstraint(losses[None] / unit_loss, -np.inf, limit / unit_loss))
    ties = _ties(units, len(shared))
    if ties is not None:
        constraints.append(LinearConstraint(ties, 0, 0))
    if shared:
        constraints.append(LinearConstraint(_sharing(options, shared), -np.inf, 0))
    # Between options of the same cost, the one of the smaller loss.
    objective = costs / scale + 1e-7 * losses / worst
    with _without_stdout():
        found = milp(
            objective,
            constraints=constraints,
            integrality=np.ones(len(costs)),
            bounds=Bounds(0, 1),
            options={"time_limit": SECONDS, "mip_rel_gap": GAP},
        )
    if found.x is None:
        return None
    chosen = np.flatnonzero(np.asarray(found.x)[: len(options)] > 0.5)
    return Chosen(tuple(options[i] for i in chosen))


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
    own = {(u.name, _swapped(o)): o for u in units for o in reversed(u.options)}
    swapped = [Unit(u.name, tuple(_swapped(o) for o in u.options), u.tied) for u in units]
    found = cheapest(swapped, float("inf"))
    assert found is not None  # all limits hold
    pairs = zip(units, found.options, strict=True)
    return Chosen(tuple(own[unit.name, option] for unit, option in pairs))


def _swapped(option: Option) -> Option:
    """Cost and loss swapped; what is shared plays no part."""
    return Option(option.weights, option.activations, option.loss, option.cost)


def _sharing(options: Sequence[Option], shared: Sequence[Shared]) -> csr_array:
    """Rows that are at most 0 where an option is chosen only together with what it shares."""
    entries = [(i, shared.index(o.shared)) for i, o in enumerate(options) if o.shared is not None]
    count, rows = len(entries), np.arange(len(entries))
    columns = [[i for i, _ in entries], [len(options) + j for _, j in entries]]
    values = np.concatenate([np.ones(count), -np.ones(count)])
    places = (np.concatenate([rows, rows]), np.concatenate(columns))
    return csr_array((values, places), shape=(count, len(options) + len(shared)))


def _of_each(units: Sequence[Unit], more: int) -> csr_array:
    """A row for each unit that counts how many of its options are chosen; `more` columns of 0."""
    lengths = [len(unit.options) for unit in units]
    rows = np.repeat(np.arange(len(units)), lengths)
    columns = np.arange(len(rows))
    shape = (len(units), len(rows) + more)
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _ties(units: Sequence[Unit], more: int) -> csr_array | None:
    """Rows that are 0 where units that are tied have the same bits of activations, as above."""
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
    return csr_array((values, (rows, columns)), shape=(row, int(starts[-1]) + more))
