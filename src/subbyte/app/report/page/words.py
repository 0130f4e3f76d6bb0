"""How the page writes numbers; a dash stands where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

NONE = "–"


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(share: Any, digits: int = 2) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f}" if is_number(share) else NONE


def points(change: Any, digits: int = 2) -> str:
    """A change of a share in points, with its sign."""
    if not is_number(change):
        return NONE
    value = round(100 * change, digits) + 0.0  # no −0.00
    return f"{value:+.{digits}f}".replace("-", "−") if value else f"{0:.{digits}f}"


def ends(interval: Sequence[float] | None, digits: int = 2, *, signed: bool = False) -> str:
    """An interval of shares, in per cent or points.

    Args:
        interval: Its ends; `None`: it is not known, and the text is empty.
        digits: Behind the point.
        signed: In points, with signs, and not in per cent.
    """
    if not interval or not all(map(is_number, interval)):
        return ""
    write = points if signed else percent
    return " to ".join(write(end, digits) for end in interval)


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits."""
    if not is_number(value):
        return NONE
    if value and (abs(value) >= 10**digits or abs(value) < 1e-4):
        return f"{value:.0f}" if abs(value) >= 1 else f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}".replace("-", "−")


def decibels(value: Any) -> str:
    """A ratio in dB, with one digit."""
    return f"{value:.1f}".replace("-", "−") if is_number(value) else NONE


def kilobytes(value: Any) -> str:
    """Bytes as kB or MB."""
    if not is_number(value):
        return NONE
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def seconds(value: Any) -> str:
    """A time."""
    if not is_number(value):
        return NONE
    if value < 120:
        return f"{value:.{1 if value < 10 else 0}f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ended(sentence: str) -> str:
    """A sentence with a full stop."""
    return sentence if sentence.rstrip().endswith((".", "!", "?")) else f"{sentence.rstrip()}."


def count(value: Any) -> str:
    """A number of things."""
    return f"{value:,}" if is_number(value) else NONE


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers of a chart with fewer digits, whatever they are nested in; `None` for no number."""
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
