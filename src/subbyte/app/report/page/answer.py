"""The answer: a row for the float model and each variant, wherever it ran; searches; trade-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subbyte.app.report.page import words
from subbyte.app.report.page.reading import SIMULATION, Entry, RunRecord

OPEN = "within what chance explains"


@dataclass(frozen=True)
class Row:
    """A line of the answer: numbers as they are, for sorting, and for charts.

    Attributes:
        run: The run's name.
        variant: "float", or the variant's name.
        about: What it is, in a few words: bits and method.
        where: "simulation" or a runtime.
        metric: The primary metric; `None` where it was not measured.
        interval: Its ends, where they are known.
        change: From the float model's, on the same images.
        change_interval: Its ends.
        verdict: What the interval says, in a few words.
        size: Bytes of the file.
        latency: Milliseconds.
        speed: The float model's latency in the same runtime over it.
        agreement: Of the file and its simulation; of a simulation, with the float model.
        seconds: That quantizing took.
        images: On how many it was measured.
    """

    run: str
    variant: str
    about: str
    where: str
    metric: float | None
    interval: Sequence[float] | None
    change: float | None
    change_interval: Sequence[float] | None
    verdict: str
    size: int | None
    latency: float | None
    speed: float | None
    agreement: float | None
    seconds: float | None
    images: int | None


@dataclass(frozen=True)
class Searched:
    """What a search was asked for and found.

    Attributes:
        name: The variant's, as the page calls it.
        asked: A sentence.
        found: A sentence for each runtime, and whether it is within the budget.
        tried: What was built, as `frontier.json` has it.
        unit: Of a cost.
        factor: By which a cost is multiplied to be in that unit.
        budget: Points that may be lost; `None` where they are relative to the float model's.
        recipe: The recipe that was found, as YAML.
    """

    name: str
    asked: str
    found: Sequence[tuple[str, bool]]
    tried: Sequence[Mapping[str, Any]]
    unit: str
    factor: float
    budget: float | None
    recipe: str


def rows(runs: Sequence[RunRecord]) -> list[Row]:
    """The lines of the answer, of each run the float model's first."""
    found = []
    for run in runs:
        entries = [run.float] if run.float else []
        for entry in [*entries, *run.variants]:
            found += [_row(run, entry, where, its) for where, its in entry.places.items()]
    return found


def searches(runs: Sequence[RunRecord]) -> list[Searched]:
    """What searches of the runs found."""
    return [
        _searched(run, entry, len(runs) > 1)
        for run in runs
        for entry in run.variants
        if "search" in entry.measured
    ]


def trade_off(lines: Sequence[Row]) -> list[dict[str, Any]]:
    """The points of the charts of metric against size and against latency."""
    return [
        {
            "run": row.run,
            "variant": row.variant,
            "where": row.where,
            "metric": words.rounded(100 * row.metric, 6),
            "interval": None
            if not row.interval
            else [words.rounded(100 * end, 6) for end in row.interval],
            "size": None if row.size is None else row.size / 1000,
            "latency": words.rounded(row.latency),
        }
        for row in lines
        if row.metric is not None
    ]


def title_of(run: RunRecord, name: str, *, several: bool) -> str:
    """What the page calls a variant: with its run's name where it shows several runs.

    Args:
        run: The variant's run.
        name: The variant's.
        several: Whether the page shows several runs.
    """
    return f"{run.name}: {name}" if several else name


def _row(run: RunRecord, entry: Entry, where: str, its: Mapping[str, Any]) -> Row:
    """A line of an entry.

    Args:
        run: Its run.
        entry: The entry.
        where: "simulation" or a runtime.
        its: What was measured there.
    """
    metric = _number(its.get("metrics", {}).get(run.metric))
    before: Mapping[str, Any] = {}
    if run.float is not None and entry is not run.float:
        before = run.float.places.get(where, {})
    paired = its.get("against_float") or {}
    change = _number(paired.get("change"))
    float_metric = _number(before.get("metrics", {}).get(run.metric))
    if change is None and metric is not None and float_metric is not None:
        change = metric - float_metric
    latency, float_latency = _number(its.get("latency_ms")), _number(before.get("latency_ms"))
    size = _number(entry.measured.get("size_bytes"))
    is_simulated = where == SIMULATION
    return Row(
        run=run.name,
        variant=entry.name,
        about=_about(run, entry),
        where=where,
        metric=metric,
        interval=its.get("intervals", {}).get(run.metric),
        change=change,
        change_interval=paired.get("interval"),
        verdict=_verdict(paired.get("interval"), change),
        size=None if size is None else int(size),
        latency=latency,
        speed=float_latency / latency if latency and float_latency else None,
        agreement=_number(its.get("agreement_with_float" if is_simulated else "agreement")),
        seconds=_number(entry.measured.get("seconds")) if is_simulated else None,
        images=its.get("images"),
    )


def _about(run: RunRecord, entry: Entry) -> str:
    if entry is run.float:
        return "before quantization"
    its = entry.measured
    method = str(its.get("method", "")).replace("_", " ")
    if "search" in its:
        return f"bits by a search, {method}"
    bits = ["float" if its.get(key) is None else its[key] for key in ("weights", "activations")]
    return f"{bits[0]}/{bits[1]} bits, {method}"


def _verdict(interval: Sequence[float] | None, change: float | None) -> str:
    if not interval or not all(map(words.is_number, interval)):
        return ""
    if change == 0:
        return "the same"
    if interval[0] > 0:
        return "higher"
    return "lower" if interval[1] < 0 else OPEN


UNITS = {"size": ("kB", 1e-3), "latency": ("ms", 1.0), "bits": ("bit operations", 1.0)}


def _searched(run: RunRecord, entry: Entry, several: bool) -> Searched:
    its = entry.measured["search"]
    points = "point" if its["max_drop"] == 1 else "points"
    unit = "% of the float model's" if its.get("relative") else f"{points} of"
    goal = {"size": "file", "latency": "latency", "bits": "bit operations"}
    asked = (
        f"Asked for: the smallest {goal.get(its['objective'], its['objective'])} that loses at "
        f"most {words.number(its['max_drop'])} {unit} {run.metric}"
    )
    if its.get("confidence"):
        asked += f", with {100 * its['confidence']:g} % confidence"
    asked += f". {its['searching_images']:,} images searched, others confirmed."
    confirmed = its.get("confirmed", {})
    name, factor = UNITS.get(its["objective"], (its["objective"], 1.0))
    return Searched(
        name=title_of(run, entry.name, several=several),
        asked=asked,
        found=[(f"{key}: {x['sentence']}", bool(x["met"])) for key, x in confirmed.items()],
        tried=entry.json("frontier.json") or [],
        unit=name,
        factor=factor,
        budget=None if its.get("relative") else its["max_drop"],
        recipe=entry.text("recipe.yaml") or "",
    )


def _number(value: Any) -> float | None:
    return value if words.is_number(value) else None
