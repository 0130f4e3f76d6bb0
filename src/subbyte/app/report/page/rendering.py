"""From what folders say to the page."""

from __future__ import annotations

import json
import math
import re
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from subbyte.app.report.page import answer, words
from subbyte.app.report.page.again import again
from subbyte.app.report.page.classes import Classes, classes_of
from subbyte.app.report.page.layers import Layers, alarm, layers_of
from subbyte.app.report.page.learning import Learning, learning_of
from subbyte.app.report.page.objects import FoundObjects, objects_of
from subbyte.app.report.page.pictures import Album, Gallery, galleries
from subbyte.app.report.page.reading import SIMULATION, Entry, RunRecord, read_runs
from subbyte.app.report.reading import AGREES
from subbyte.utils import files
from subbyte.version import __version__

PACKAGE = "subbyte.app.report.page"
PAGE = "report.html"  # in a run's folder
LIBRARY = "plotly-basic.min.js"  # of the npm package plotly.js-basic-dist-min 4.1.1, as it is
LARGEST = 5_800_000  # bytes of a page
PICTURES = 2_400_000  # of these for pictures at most
FEWEST_PICTURES = 200_000
POINTS, FEW_POINTS, MANY_LAYERS = 128, 32, 800  # of a band of channels; few where layers are many

METRICS = {
    "top1": "the share of images whose first answer is right",
    "AP": "COCO's average precision, over classes and over IoUs from 0.50 to 0.95",
}
COUNTS = {  # what agreement counts
    "classification": "on which share of images the first answers",
    "detection": (
        "which share of detections (same class, IoU of at least 0.9; low scores differ more)"
    ),
}


@dataclass(frozen=True)
class Panel:
    """A variant, as the sections after the first two show it.

    Attributes:
        title: What it is called.
        layers: Its layers.
        classes: Its classes; `None`: not a classifier, or not recorded.
        objects: Its objects; `None`: not a detector, or not recorded.
        learning: Its method.
        gallery: Its pictures.
        agreement: Of its simulation with the float model: the page begins with the lowest.
    """

    title: str
    layers: Layers
    classes: Classes | None
    objects: FoundObjects | None
    learning: Learning
    gallery: Gallery | None
    agreement: float


def write_page(folders: Sequence[Path], out: Path) -> None:
    """Write the page of runs to a file, whole or not at all.

    Args:
        folders: Those of the runs.
        out: The file.

    Raises:
        SubbyteError: A folder is not a run's, or the file cannot be written.
    """
    files.write_text(out, page(folders))


def open_page(path: Path) -> None:
    """Show a page in the user's browser."""
    webbrowser.open(path.absolute().as_uri())


def page(folders: Sequence[Path]) -> str:
    """The page of runs, as HTML that needs nothing else.

    Args:
        folders: Those of the runs.

    Raises:
        SubbyteError: A folder is not a run's, or the runs are of different tasks.
    """
    runs = read_runs(folders)
    several = len(runs) > 1
    pairs = [(run, entry) for run in runs for entry in run.variants]
    lines = answer.rows(runs)
    searches = answer.searches(runs)
    sections = [
        (
            layers_of(entry, POINTS),
            classes_of(run, entry),
            objects_of(run, entry),
            learning_of(entry),
        )
        for run, entry in pairs
    ]
    if sum(len(found.rows) for found, *_ in sections) > MANY_LAYERS:
        few = [layers_of(entry, FEW_POINTS) for _, entry in pairs]
        sections = [(its, *rest) for its, (_, *rest) in zip(few, sections, strict=True)]  # type: ignore[misc]
    assets = {name: _asset(name) for name in (LIBRARY, "page.css", "page.js")}
    data = _data(lines, searches, sections, runs)
    taken = sum(map(len, assets.values())) + len(json.dumps(data)) + 12_000 * len(pairs)
    album = Album(max(FEWEST_PICTURES, min(PICTURES, LARGEST - taken)))
    shown = galleries([(entry, run.classes) for run, entry in pairs], album)
    panels = [
        Panel(
            answer.title_of(run, entry.name, several=several),
            *its,
            gallery,
            _agreement(entry),
        )
        for (run, entry), its, gallery in zip(pairs, sections, shown, strict=True)
    ]
    worst = min(range(len(panels)), key=lambda i: panels[i].agreement, default=0)
    shows = {key: any(getattr(panel, key) for panel in panels) for key in ("classes", "objects")}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            version=__version__,
            title=" and ".join(dict.fromkeys(str(run.experiment.get("name")) for run in runs)),
            css=Markup(assets["page.css"]),
            js=Markup(assets["page.js"]),
            library=Markup(assets[LIBRARY]),
            data=_embedded({**data, "pictures": album.uris}),
            data_has={"tradeoff": bool(data["tradeoff"])},
            sections=_sections(shows),
            shows=shows,
            runs=runs,
            several=several,
            rows=lines,
            searches=searches,
            panels=panels,
            chosen=worst,
            agains=[again(run) for run in runs],
            **_about(runs, lines),
        )
    )


def _agreement(entry: Entry) -> float:
    """A variant's, with the float model; as good as can be where it is not known."""
    known = entry.measured.get("agreement_with_float")
    return 1.0 if known is None else float(known)


def _about(runs: Sequence[RunRecord], lines: Sequence[answer.Row]) -> dict[str, Any]:
    """What stands around the table of the answer."""
    several = len(runs) > 1
    front = {run.name: f"{run.name}: " if several else "" for run in runs}
    metric = next((run.metric for run in runs if run.results), "metric")
    task = next((run.task for run in runs if run.task), "")
    agrees, least = (COUNTS.get(task, "which share of the answers"), AGREES.get(task, 98))
    notes = [front[run.name] + note for run in runs for note in run.results.get("notes", [])]
    broken = [run for run in runs if run.missing]
    return {
        "metric": metric,
        "metric_says": METRICS.get(metric, "the primary metric of this task"),
        "agrees_says": agrees,
        "agrees_least": least,
        "has_intervals": all(row.interval for row in lines),
        "has_any_interval": any(row.interval for row in lines),
        "own_simulation": any(_is_apart(run) for run in runs),
        "verdicts": _verdicts(runs, lines, metric),
        "notes": notes,
        "missing": [front[run.name] + sentence for run in runs for sentence in run.missing],
        "resumes": [run.resume for run in broken],
        "all_metrics": _all_metrics(runs),
    }


def _is_apart(run: RunRecord) -> bool:
    """Whether a runtime is compared with another simulation than that of the row above it."""
    return any(
        its.get("simulated") not in (None, entry.measured.get("metrics"))
        for entry in run.variants
        for its in entry.measured.get("deployed", {}).values()
    )


def _verdicts(runs: Sequence[RunRecord], lines: Sequence[answer.Row], metric: str) -> list[str]:
    """A sentence for each variant whose change is known with an interval, in its best runtime."""
    said: dict[tuple[str, str], str] = {}
    several = len(runs) > 1
    for row in lines:
        if not row.verdict or (row.where == SIMULATION and (row.run, row.variant) in said):
            continue
        name = f"{row.run}: {row.variant}" if several else row.variant
        what = f"{words.points(row.change)} points"
        told = {
            "lower": f"loses {metric}: {what}, more than chance explains",
            "higher": f"gains {metric}: {what}, more than chance explains",
            "the same": f"has the {metric} of the float model",
            answer.OPEN: f"differs by {what}, {answer.OPEN} on {words.count(row.images)} images",
        }[row.verdict]
        if row.where != SIMULATION or len(_places(runs, row)) == 1:
            said.setdefault((row.run, row.variant), f"{name} {told} (in {row.where}).")
    return list(said.values())


def _places(runs: Sequence[RunRecord], row: answer.Row) -> list[str]:
    """Where a row's variant ran."""
    run = next(run for run in runs if run.name == row.run)
    return [place for entry in run.variants if entry.name == row.variant for place in entry.places]


def _all_metrics(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """All metrics of all entries, for the table that is folded up."""
    lines = []
    for run in runs:
        for entry in [*([run.float] if run.float else []), *run.variants]:
            for where, its in entry.places.items():
                lines.append((run.name, entry.name, where, its.get("metrics", {})))
    names = list(dict.fromkeys(name for *_, metrics in lines for name in metrics))
    plain = [
        {"run": run, "variant": variant, "where": where, "cells": [its.get(n) for n in names]}
        for run, variant, where, its in lines
    ]
    return {"names": names, "lines": plain}


def _data(
    lines: Sequence[answer.Row],
    searches: Sequence[answer.Searched],
    sections: Sequence[tuple[Layers, Classes | None, FoundObjects | None, Learning]],
    runs: Sequence[RunRecord],
) -> dict[str, Any]:
    """What the page's charts are drawn from.

    Args:
        lines: Of the answer.
        searches: What was searched.
        sections: What is shown of each variant.
        runs: The runs.
    """
    places = {}
    for run in runs:
        found = [row.where for row in lines if row.run == run.name]
        places[run.name] = next((where for where in found if where != SIMULATION), SIMULATION)
    return {
        "metric": next((run.metric for run in runs if run.results), "metric"),
        "several": len(runs) > 1,
        "tradeoff": answer.trade_off(lines),
        "size_places": places,
        "frontiers": [_frontier(found) for found in searches],
        "layers": [layers.chart for layers, *_ in sections],
        "curves": [found.curves if found else {} for _, _, found, _ in sections],
        "shifts": [found.shifts if found else None for _, _, found, _ in sections],
        "learning": [learning.curves for *_, learning in sections],
    }


def _frontier(found: answer.Searched) -> dict[str, Any]:
    """The points of a search's chart: cost, points lost, their error, and which one was chosen."""
    points = [
        {
            "cost": words.rounded(one["cost"] * found.factor, 6),
            "lost": words.rounded(100 * one["lost"]),
            "error": words.rounded(100 * (one.get("error") or 0.0)),
            "chosen": bool(one.get("chosen")),
        }
        for one in found.tried
    ]
    return {"points": points, "unit": found.unit, "budget": found.budget}


def _sections(shows: Mapping[str, bool]) -> list[tuple[str, str]]:
    """The ids and names of the page's sections."""
    named = [("answer", "Answer"), ("trade-off", "Trade-off"), ("layers", "Layers")]
    named += [(key, key.capitalize()) for key, there in shows.items() if there]
    return [*named, ("methods", "Methods"), ("again", "Again")]


def _environment() -> Environment:
    """The templates, in which every value is escaped."""
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = (
        words.percent,
        words.points,
        words.ends,
        words.number,
        words.decibels,
        words.kilobytes,
        words.seconds,
        words.count,
        words.ended,
        alarm,
    )
    environment.globals.update({function.__name__: function for function in own})
    environment.globals.update(times=_times, heat=_heat, bits_said=_bits_said)
    environment.globals["breakable"] = _breakable
    return environment


def _times(db: float) -> float:
    return float(10 ** (db / 10))


def _breakable(name: str) -> Markup:
    """A layer's name, which may go on in a new line behind each dot."""
    return Markup("<wbr>").join(part for part in re.split(r"(?<=[._])", name))


def _heat(value: int, matrix: Sequence[Sequence[int]]) -> str:
    """How dark a cell of the confusion is: by its share of the largest one off the diagonal."""
    most = max(x for i, line in enumerate(matrix) for j, x in enumerate(line) if i != j)
    return f"{0.15 + 0.6 * math.sqrt(value / most):.2f}"


def _bits_said(bits: Mapping[str, Any] | None) -> str:
    """How many layers have how many bits, as "12 × 4, 3 × 8"."""
    counts: dict[str, int] = {}
    for value in (bits or {}).values():
        name = "float" if value is None else str(value)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{counts[name]} × {name}" for name in sorted(counts))


def _embedded(value: Any) -> Markup:
    """JSON that no HTML can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _asset(name: str) -> str:
    return (resources.files(PACKAGE) / "assets" / name).read_text(encoding="utf-8")
