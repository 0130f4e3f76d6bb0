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
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    # Of names that are alike, people get the beginning right.
    near.sort(key=lambda known_name: -_alike(known_name, name.lower()))
    hint = f" did you mean '{lowered[near[0]]}'?" if near else ""
    shown = ", ".join(names[:12]) + (f", … {len(names)} in all" if len(names) > 12 else "")
    return SubbyteError(f"unknown {kind} '{name}':{hint} (known: {shown})")


def _alike(first: str, second: str) -> int:
    """With how many letters both begin."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
