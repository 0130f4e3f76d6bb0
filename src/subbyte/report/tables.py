"""The tables: of a run, for the terminal; of a variant's layers, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from subbyte.files import atomic
from subbyte.graph.captured import Layer

LAYER_COLUMNS = (
    "layer",
    "role",
    "bits",
    "symmetric",
    "per_channel",
    "scale",
    "zero_point",
    "sqnr_db",
    "readers",
    "left_in_float",
    "clipped",
    "clipped_calibration",
)


def run_table(results: dict[str, Any]) -> Table:
    """A variant in its simulation, and below it in each runtime on the same images."""
    metric = results["primary_metric"]
    table = Table(
        title=escape(_title(results)),
        caption=escape(_caption(results)),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("variant", no_wrap=True)
    table.add_column("run in", no_wrap=True)
    table.add_column(f"{metric} %", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("agree %", justify="right", no_wrap=True)
    table.add_column("SQNR dB", justify="right", no_wrap=True)
    table.add_column("int8 ops", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("kB (packed)", justify="right", no_wrap=True)
    for entry in [{"name": "float", **results["float"]}, *results["variants"]]:
        for cells in _rows(entry, metric):
            table.add_row(*(escape(cell) for cell in cells))
        table.add_section()
    return table


def write_layers(path: Path, rows: Sequence[dict[str, Any]], layers: Sequence[Layer]) -> None:
    """Write `layers.csv`: each quantized tensor, then the layers left in float, and why."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LAYER_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
        for layer in layers:
            if layer.reason:
                writer.writerow({"layer": layer.name, "left_in_float": layer.reason})


def _rows(entry: dict[str, Any], metric: str) -> Iterator[list[str]]:
    sqnr = entry.get("sqnr_db")
    yield [
        entry["name"],
        "simulation",
        *_score(entry, metric),
        _percent(entry.get("agreement_with_float")),
        "–" if sqnr is None else f"{sqnr:.1f}",
        "",
        "",
        _size(entry),
    ]
    for runtime, deployed in entry["deployed"].items():
        yield [
            "",
            runtime,
            *_score(deployed, metric),
            _percent(deployed["agreement"]),
            "",
            f"{deployed['int8_ops']} of {deployed['int8_candidates']}",
            f"{deployed['latency_ms']:.{3 if deployed['latency_ms'] < 1000 else 6}g}",
            "",
        ]


def _score(entry: dict[str, Any], metric: str) -> tuple[str, str]:
    low, high = entry["intervals"][metric]
    return _percent(entry["metrics"][metric]), f"{_percent(low, 1)}–{_percent(high, 1)}"


def _size(entry: dict[str, Any]) -> str:
    size = f"{entry['size_bytes'] / 1000:.0f}"
    packed = entry.get("packed_bytes")
    return size if packed in (None, entry["size_bytes"]) else f"{size} ({packed / 1000:.0f})"


def _title(results: dict[str, Any]) -> str:
    return (
        f"{results['experiment']}: {results['model']}, {results['evaluation_images']} evaluation "
        f"and {results['calibration_images']} calibration images, seed {results['seed']}"
    )


def _caption(results: dict[str, Any]) -> str:
    lines = ["agree: same top-1 as float (simulation), as the simulation (runtimes)"]
    deployed = list(results["float"]["deployed"].values())
    if deployed:
        lines.append(
            f"ms: median latency at batch {deployed[0]['latency_batch']} "
            f"on {deployed[0]['latency_threads']} threads"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in results["notes"])])


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
