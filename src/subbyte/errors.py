"""The one exception that users meet, and the sentence that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile


class SubbyteError(Exception):
    """Bad input, in one sentence: what was wrong, and what would be right."""


class BudgetMissedError(SubbyteError):
    """A search ended without anything that is within its budget; what was found is kept."""


def unknown(kind: str, name: str, known: Iterable[str]) -> SubbyteError:
    """The error for a name that is not in a table, with the nearest name that is.

    >>> str(unknown("range rule", "mze", ["minmax", "mse"]))
    "unknown range rule 'mze': did you mean 'mse'? (known: minmax, mse)"

    Args:
        kind: What the name is of, as "range rule".
        name: The name that was given.
        known: The names that there are.
    """
    names = sorted(known)
    lowered = {known_name.lower(): known_name for known_name in names}
    asked, parent = name.lower(), name.lower()[: name.rfind(".") + 1]
    # What all names begin with says nothing of which is meant.
    shared = len(parent) if all(known_name.startswith(parent) for known_name in lowered) else 0
    tails = {known_name[shared:]: known_name for known_name in lowered}
    near = difflib.get_close_matches(asked[shared:], tails, n=5, cutoff=0.5)
    # People get the beginning right, of names that they shorten as well.
    near.sort(key=lambda tail: _edits(tail, asked[shared:]) - _alike(tail, asked[shared:]))
    hint = f": did you mean '{lowered[tails[near[0]]]}'?" if near else ""
    shown = ", ".join(names[:12]) + (f", … {len(names)} in all" if len(names) > 12 else "")
    return SubbyteError(f"unknown {kind} '{name}'{hint} (known: {shown})")


def _edits(first: str, second: str) -> int:
    """How many letters are put in, left out, changed, or swapped with the next one."""
    rows = [list(range(len(second) + 1))]
    for i, letter in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and other == first[i - 2]:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def _alike(first: str, second: str) -> int:
    """With how many letters both begin."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
