"""The tables: of a run, for the terminal; of a variant's layers, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from subbyte.app.report.reading import reading
from subbyte.placement.placement import PlacedLayer
from subbyte.tasks.base import Columns, task_file
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
    "saturated",
    "own_db",
    "alone_db",
    "accumulated_db",
)


def run_table(results: dict[str, Any]) -> Table:
    """A variant in its simulation, and below it in each runtime."""
    own = task_file(results["task"]).COLUMNS
    table = Table(
        title=escape(_title(results)),
        caption=escape(_caption(results, own)),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("variant", "run in"):
        table.add_column(name, no_wrap=True)
    latency = "ms (raw)" if own.raw_latency else "ms"
    for name in (*own.names, "SQNR dB", "int8 ops", latency, "kB (packed)"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in [{"name": "float", **results["float"]}, *results["variants"]]:
        for cells in _rows(entry, own):
            table.add_row(*(escape(cell) for cell in cells))
        table.add_section()
    return table


def searches_missed(results: dict[str, Any]) -> list[str]:
    """A sentence for each variant that is not within the budget of its search."""
    sentences = []
    for entry in results["variants"]:
        confirmed = entry.get("search", {}).get("confirmed", {})
        wrong = [f"{key}: {x['sentence']}" for key, x in confirmed.items() if not x["met"]]
        if wrong:
            sentences.append(f"{entry['name']}: {'; '.join(wrong)}")
    return sentences


def write_layers(
    path: Path,
    rows: Sequence[dict[str, Any]],
    layers: Sequence[PlacedLayer],
    saturated: Mapping[str, float | None] | None = None,
) -> None:
    """Write `layers.csv`: each quantized tensor, then the layers left in float, and why.

    Args:
        path: The file.
        rows: Of the quantized tensors, by column.
        layers: All layers.
        saturated: Layer → the share of its integer sums that saturate, where they are simulated.
    """
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LAYER_COLUMNS)
        writer.writeheader()
        for row in rows:
            if saturated and row["role"] == "weight" and row["layer"] in saturated:
                row = {**row, "saturated": saturated[row["layer"]]}
            writer.writerow({key: _cell(value) for key, value in row.items()})
        for layer in layers:
            if layer.reason:
                writer.writerow({"layer": layer.name, "left_in_float": layer.reason})


def _rows(entry: dict[str, Any], own: Columns) -> Iterator[list[str]]:
    sqnr = entry.get("sqnr_db_worst", entry.get("sqnr_db"))
    yield [
        entry["name"],
        "simulation",
        *own.cells(entry),
        "–" if sqnr is None else f"{sqnr:.1f}",
        "",
        "",
        _size(entry),
    ]
    for runtime, deployed in entry["deployed"].items():
        raw = deployed.get("latency_raw_ms")
        with_raw = f" ({_milliseconds(raw)})" if own.raw_latency and raw is not None else ""
        yield [
            "",
            runtime,
            *own.cells(deployed, deployed=True),
            "",
            f"{deployed['int8_ops']} of {deployed['int8_candidates']}",
            _milliseconds(deployed["latency_ms"])
            + (f" ({_milliseconds(raw)})" if with_raw else ""),
            "",
        ]


def _milliseconds(value: float) -> str:
    return f"{value:.{3 if value < 1000 else 6}g}"


def _size(entry: dict[str, Any]) -> str:
    size = f"{entry['size_bytes'] / 1000:.0f}"
    packed = f"{entry.get('packed_bytes', entry['size_bytes']) / 1000:.0f}"
    return size if packed == size else f"{size} ({packed})"


def _title(results: dict[str, Any]) -> str:
    return (
        f"{results['experiment']}: {results['model']}, {results['evaluation_images']} evaluation "
        f"and {results['calibration_images']} calibration images, seed {results['seed']}"
    )


def _caption(results: dict[str, Any], own: Columns) -> str:
    lines = list(own.caption)
    simulated = results.get("simulation_images", results["evaluation_images"])
    if simulated < results["evaluation_images"]:
        lines.append(f"simulation, and what is compared with it: on {simulated} of the images")
    deployed = list(results["float"]["deployed"].values())
    if deployed:
        lines.append(
            f"ms: median latency at batch {deployed[0]['latency_batch']} "
            f"on {deployed[0]['latency_threads']} threads"
            + (" (raw: without post-processing)" if own.raw_latency else "")
        )
    lines += reading(results)
    return "\n".join([*lines, *(f"note: {note}" for note in results["notes"])])


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
