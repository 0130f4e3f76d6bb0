"""Classes of a classifier: which lost most, and what is answered in the place of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subbyte.app.report.page.reading import SIMULATION, Entry, RunRecord
from subbyte.app.right import Right

ALL_ROWS = 20  # classes up to which all are shown; of more, those that changed
MOST_LOST, MOST_GAINED = 30, 10
MATRIX = 16  # classes up to which the confusion is a matrix
MOST_PAIRS = 20


@dataclass(frozen=True)
class ClassRow:
    """A class, on the images that both models ran.

    Attributes:
        name: Its name.
        images: How many images are of it.
        before: The share that the float model has right.
        after: The share that the variant has right.
        instead: What the variant says most often where it alone is wrong, with how often.
    """

    name: str
    images: int
    before: float
    after: float
    instead: str


@dataclass(frozen=True)
class Pair:
    """Images of which the float model says one class and the variant another.

    Attributes:
        before: What the float model says.
        after: What the variant says.
        images: How many there are.
        float_right: Of how many the float model is right.
        right: Of how many the variant is.
    """

    before: str
    after: str
    images: int
    float_right: int
    right: int


@dataclass(frozen=True)
class Classes:
    """What is shown of a variant.

    Attributes:
        where: Where both models ran.
        images: On how many images.
        differ: Of how many of these they say other things.
        rows: Classes, those that lost most first.
        left_out: How many classes are not among them.
        unchanged: How many of those are answered as well as before.
        names: Of the matrix, where it is small enough to be shown.
        matrix: Row → column → images: what the float model says, and the variant.
        pairs: Those with the most images.
    """

    where: str
    images: int
    differ: int
    rows: Sequence[ClassRow]
    left_out: int
    unchanged: int
    names: Sequence[str]
    matrix: Sequence[Sequence[int]]
    pairs: Sequence[Pair]


def classes_of(run: RunRecord, entry: Entry) -> Classes | None:
    """What is shown of a variant's classes; `None` where a run has not recorded answers."""
    if run.float is None:
        return None
    before, after = run.right(run.float), run.right(entry)
    common = [key for key in after if key in before and "answers" in after[key].values]
    common = [key for key in common if len(before[key].keys) == len(after[key].keys)]
    if not common:
        return None
    where = next((key for key in common if key != SIMULATION), SIMULATION)
    return _compared(run, where, before[where], after[where])


def named(classes: Sequence[str], number: int) -> str:
    """A class by its number."""
    return classes[number] if 0 <= number < len(classes) else f"class {number}"


def _compared(run: RunRecord, where: str, before: Right, after: Right) -> Classes:
    labels, first = (before.values[key].astype(np.int64) for key in ("labels", "answers"))
    second = after.values["answers"].astype(np.int64)
    known = max(int(max(x.max(initial=0) for x in (labels, first, second))) + 1, len(run.classes))
    rows = [row for row in (_row(run, n, labels, first, second) for n in np.unique(labels)) if row]
    rows.sort(key=lambda row: (row.after - row.before, row.after))
    shown = rows
    if len(rows) > ALL_ROWS:
        changed = [row for row in rows if row.before != row.after]
        shown = changed[:MOST_LOST] + changed[MOST_LOST:][-MOST_GAINED:]
    differ = first != second
    matrix: list[list[int]] = []
    if known <= MATRIX:
        counts = np.zeros((known, known), np.int64)
        np.add.at(counts, (first, second), 1)
        matrix = counts.tolist()
    return Classes(
        where=where,
        images=len(labels),
        differ=int(differ.sum()),
        rows=shown,
        left_out=len(rows) - len(shown),
        unchanged=sum(row.before == row.after for row in rows) if len(rows) > ALL_ROWS else 0,
        names=[named(run.classes, n) for n in range(known)] if matrix else [],
        matrix=matrix,
        pairs=_pairs(run, labels, first, second),
    )


def _row(
    run: RunRecord, number: int, labels: np.ndarray, first: np.ndarray, second: np.ndarray
) -> ClassRow:
    """One class.

    Args:
        run: Whose classes they are.
        number: Its number.
        labels: Of the images.
        first: What the float model says.
        second: What the variant says.
    """
    own = labels == number
    before, after = first[own] == number, second[own] == number
    others, times = np.unique(second[own][before & ~after], return_counts=True)
    instead = ""
    if len(others):
        most = int(times.argmax())
        instead = f"{named(run.classes, int(others[most]))} ({times[most]}×)"
    name = named(run.classes, int(number))
    return ClassRow(name, int(own.sum()), float(before.mean()), float(after.mean()), instead)


def _pairs(run: RunRecord, labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[Pair]:
    """The pairs of answers with the most images.

    Args:
        run: Whose classes they are.
        labels: Of the images.
        first: What the float model says.
        second: What the variant says.
    """
    differ = np.flatnonzero(first != second)
    both = np.stack([first[differ], second[differ]], 1)
    pairs, counts = np.unique(both, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    found = []
    for (before, after), images in zip(pairs[order].tolist(), counts[order].tolist(), strict=True):
        own = differ[(both == (before, after)).all(1)]
        names = named(run.classes, before), named(run.classes, after)
        right = [int((labels[own] == number).sum()) for number in (before, after)]
        found.append(Pair(*names, int(images), *right))
    return found
