"""What of an earlier run still holds, when its experiment is run again as the file is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIANTS = "variants"
ASIDE = ("diagnose", "log")  # no figure depends on them


@dataclass(frozen=True)
class Resumed:
    """How an experiment differs from that of an earlier run.

    Attributes:
        fault: A key other than the variants that differs, and how; `None`: there is none, and the
            run can go on.
        again: The variants of the earlier run that are done again.
        changes: What is new, done again or left out, as sentences.
    """

    fault: str | None
    again: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return self.fault is None and not self.changes


def resumed(there: Mapping[str, Any], here: Mapping[str, Any]) -> Resumed:
    """How two experiments differ, as plain data.

    Args:
        there: That of the earlier run.
        here: As it is now.
    """
    fault = _difference(_without_variants(there), _without_variants(here))
    before, now = there.get(VARIANTS) or {}, here.get(VARIANTS) or {}
    changed = {
        name: _difference(before[name], now[name])
        for name in now
        if name in before and before[name] != now[name]
    }
    changes = [f"{name} is new" for name in now if name not in before]
    changes += [f"{name} is done again, because {how}" for name, how in changed.items()]
    changes += [
        f"{name} is no longer in the experiment, and the results leave it out"
        for name in before
        if name not in now
    ]
    return Resumed(fault, tuple(changed), tuple(changes))


def _without_variants(experiment: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in experiment.items() if key not in (VARIANTS, *ASIDE)}


def _difference(there: Any, here: Any) -> str | None:
    """The first key in which two mappings differ; `None`: they are the same."""
    if there == here:
        return None
    before, now = _flat(there), _flat(here)
    for key in [*before, *now]:
        if before.get(key) != now.get(key):
            return f"{key} is {before.get(key)} there and {now.get(key)} here"
    return "it cannot be read"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{prefix}.{key}" if prefix else str(key))
    return flat
