"""The table of two runs side by side."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from subbyte.app.compare import Comparison, Row

SIZES = {"size_bytes": ("kB", 1e-3, 0), "latency_ms": ("ms", 1.0, 3)}


def compared_table(found: Comparison) -> Table:
    """A row for each figure that a reader compares: the primary metric, latency and size."""
    table = Table(
        title=escape(f"{_named(found.before)} → {_named(found.after)}"),
        caption="change: in points, of ms and kB in per cent; interval: 95 %, of the same images",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("variant", "run in"):
        table.add_column(name, no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("before", "after", "change", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    shown = [row for row in found.rows if row.metric in (found.primary_metric, *SIZES)]
    last: Row | None = None
    for row in shown:
        if last is not None and last.variant != row.variant:
            table.add_section()
        first = last is None or last.variant != row.variant
        table.add_row(*map(escape, [row.variant if first else "", row.run_in, *_cells(row)]))
        last = row
    return table


def _cells(row: Row) -> list[str]:
    if row.metric in SIZES:
        unit, factor, digits = SIZES[row.metric]
        values = [f"{factor * value:.{digits}f}" for value in (row.before, row.after)]
        return [unit, *values, f"{100 * row.change:+.1f} %", "", ""]
    values = [f"{100 * value:.2f}" for value in (row.before, row.after)]
    ends = "" if row.interval is None else " to ".join(f"{100 * x:+.2f}" for x in row.interval)
    return [f"{row.metric} %", *values, f"{100 * row.change:+.2f}", ends, row.verdict]


def _named(path: str) -> str:
    """A run by its folder."""
    return str(Path(path).parent)
