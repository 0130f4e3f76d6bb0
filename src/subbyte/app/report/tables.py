"""The tables: of a run, for the terminal; of a variant's layers, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from subbyte.placement.simulation import Layer
from subbyte.utils.files import atomic

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
    table = Table(
        title=escape(_title(results)),
        caption=escape(_caption(results)),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("variant", "run in"):
        table.add_column(name, no_wrap=True)
    detects = _detects(results)
    shown = [f"{metric} %" for metric in _metrics(results)]
    shown += [] if detects else ["95 % interval"]
    shown += ["agree %", *(["lost/gained %"] if detects else []), "SQNR dB", "int8 ops"]
    for name in (*shown, "ms (raw)" if detects else "ms", "kB (packed)"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in [{"name": "float", **results["float"]}, *results["variants"]]:
        for cells in _rows(entry, results):
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


def _rows(entry: dict[str, Any], results: dict[str, Any]) -> Iterator[list[str]]:
    sqnr = entry.get("sqnr_db")
    detects = _detects(results)
    yield [
        entry["name"],
        "simulation",
        *_score(entry, results),
        _percent(entry.get("agreement_with_float")),
        *([_lost(entry)] if detects else []),
        "–" if sqnr is None else f"{sqnr:.1f}",
        "",
        "",
        _size(entry),
    ]
    for runtime, deployed in entry["deployed"].items():
        raw = deployed.get("latency_raw_ms")
        yield [
            "",
            runtime,
            *_score(deployed, results),
            _percent(deployed["agreement"]),
            *([""] if detects else []),
            "",
            f"{deployed['int8_ops']} of {deployed['int8_candidates']}",
            _milliseconds(deployed["latency_ms"])
            + (f" ({_milliseconds(raw)})" if detects and raw is not None else ""),
            "",
        ]


def _detects(results: dict[str, Any]) -> bool:
    return bool(results["primary_metric"] == "AP")


def _metrics(results: dict[str, Any]) -> tuple[str, ...]:
    """The metrics that have a column."""
    return ("AP", "AP50") if _detects(results) else (results["primary_metric"],)


def _score(entry: dict[str, Any], results: dict[str, Any]) -> list[str]:
    found = [_percent(entry["metrics"][metric]) for metric in _metrics(results)]
    if not _detects(results):
        low, high = entry["intervals"][results["primary_metric"]]
        found.append(f"{_percent(low, 1)}–{_percent(high, 1)}")
    return found


def _lost(entry: dict[str, Any]) -> str:
    """Shares of the objects that quantization lost and gained."""
    found = entry.get("objects") or {}
    if found.get("lost") is None:
        return "–"
    return f"{_percent(found['lost'], 1)}/{_percent(found['gained'], 1)}"


def _milliseconds(value: float) -> str:
    return f"{value:.{3 if value < 1000 else 6}g}"


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
    if _detects(results):
        lines = [
            "agree: detections matched with float's (simulation), with the simulation's "
            "(runtimes), of the same class and at IoU 0.9",
            "lost/gained: detections at the score where float's F1 is best, as shares of float's",
        ]
    deployed = list(results["float"]["deployed"].values())
    if deployed:
        lines.append(
            f"ms: median latency at batch {deployed[0]['latency_batch']} "
            f"on {deployed[0]['latency_threads']} threads"
            + (" (raw: without post-processing)" if _detects(results) else "")
        )
    return "\n".join([*lines, *(f"note: {note}" for note in results["notes"])])


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
