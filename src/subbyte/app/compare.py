"""Two runs side by side: what got better or worse, on the same images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.app.paired_change import paired_change
from subbyte.app.right import Right, read_images, read_keys
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics.comparison import Change, paired
from subbyte.utils.progress import Progress, Silent

SIMULATION, FLOAT = "simulation", "float"
ROUNDING = 1e-9
Keys = tuple[np.ndarray, np.ndarray]  # of the images of both runs


@dataclass(frozen=True)
class RunResults:
    """A run that is finished, or as far as it is.

    Attributes:
        path: Its `results.json`.
        results: What stands in it.
        folder: The run's, if the file lies in one that holds what was right of each image.
    """

    path: Path
    results: dict[str, Any]
    folder: Path | None


@dataclass(frozen=True)
class Row:
    """One figure of both runs.

    Attributes:
        variant: "float" or a variant's name.
        run_in: "simulation" or a runtime; empty for what is the variant's own.
        metric: As in the results.
        before: In the first run.
        after: In the second one.
        change: The difference; of `size_bytes` and `latency_ms` as a share of the first run's.
        interval: The 95 % interval of the change, on the same images; `None`: not known.
        images: On how many images of both.
        verdict: "better" or "worse" where the interval says so, "open" where it does not, "same"
            without any change; "" where there is no interval.
    """

    variant: str
    run_in: str
    metric: str
    before: float
    after: float
    change: float
    interval: tuple[float, float] | None
    images: int | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Attributes:
        before: The first one's `results.json`.
        after: The second one's.
        primary_metric: Of the task.
        rows: All figures that both have.
        notes: What a reader must know.
    """

    before: str
    after: str
    primary_metric: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def fallen(self, max_drop: float) -> list[Row]:
        """The rows whose primary metric fell by more than so many points."""
        own = [row for row in self.rows if row.metric == self.primary_metric]
        return [row for row in own if -100 * row.change > max_drop + ROUNDING]


def read_results(path: Path) -> RunResults:
    """The results of a run's folder, or of a `results.json`.

    Raises:
        SubbyteError: There are none, or they are not a run's.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise SubbyteError(
            f"there is no {file}: name the folder of a run with a finished variant, or its "
            "results.json"
        )
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SubbyteError(f"{file} is not JSON ({error}): name a run's results.json") from None
    keys = ("task", "primary_metric", "float", "variants")
    missing = [key for key in keys if not isinstance(results, dict) or key not in results]
    if missing:
        raise SubbyteError(f"{file} has no {missing[0]}: name a run's results.json")
    folder = file.parent if (file.parent / "float" / "images.npz").is_file() else None
    return RunResults(file, results, folder)


def compare(
    first: Path, second: Path, only: Sequence[str] = (), progress: Progress | None = None
) -> Comparison:
    """Compare two runs of the same task, variant by variant.

    Args:
        first: The folder of a run, or its `results.json`: what was before.
        second: What came after.
        only: The names of the variants to compare; empty: all that both have.
        progress: Shows how far it is.

    Raises:
        SubbyteError: The results cannot be read, are of different tasks or metrics, or of no image
            or variant in common, or one of `only` is not in both.
    """
    runs = [read_results(path) for path in (first, second)]
    before, after = (run.results for run in runs)
    for key in ("task", "primary_metric"):
        if before[key] != after[key]:
            raise SubbyteError(
                f"the runs differ in {key}, {before[key]} and {after[key]}: compare runs of the "
                "same task"
            )
    entries = [_entries(results) for results in (before, after)]
    names, notes = _common(entries, only)
    keys, of_images = _keys(runs)
    notes += of_images
    rows: list[Row] = []
    for name in (progress or Silent()).track(names, "comparing"):
        pair = entries[0][name], entries[1][name]
        rows += _rows(name, pair, _right(runs, name, keys))
        notes += _gone(name, pair, before["primary_metric"])
    return Comparison(
        str(runs[0].path), str(runs[1].path), before["primary_metric"], tuple(rows), tuple(notes)
    )


def _gone(name: str, pair: tuple[Mapping[str, Any], Mapping[str, Any]], metric: str) -> list[str]:
    """Notes on runtimes, and on the primary metric in one, of which the second run says nothing.

    Args:
        name: The variant's.
        pair: Its entries in both runs.
        metric: The primary one.
    """
    gone = [key for key in pair[0]["deployed"] if key not in pair[1]["deployed"]]
    before, after = ({SIMULATION: entry, **entry["deployed"]} for entry in pair)
    known = [key for key in before if before[key]["metrics"].get(metric) is not None]
    lost = [key for key in known if key in after and after[key]["metrics"].get(metric) is None]
    gone += [f"{metric} in {key}" for key in lost]
    return [f"{name}: {what} is in the first run alone" for what in gone]


def _entries(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {FLOAT: results["float"], **{entry["name"]: entry for entry in results["variants"]}}


def _common(
    entries: Sequence[Mapping[str, Any]], only: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The names of what both runs have, and notes on what one alone has."""
    for name in only:
        for entry, which in zip(entries, ("first", "second"), strict=True):
            if name not in entry:
                raise SubbyteError(f"the {which} run has no variant {name}: leave --only out")
    names = [name for name in entries[0] if name in entries[1]]
    if len(names) < 2:
        raise SubbyteError(
            f"the runs have no variant in common ({', '.join(list(entries[0])[1:]) or 'none'}, and "
            f"{', '.join(list(entries[1])[1:]) or 'none'}): compare runs of the same variants"
        )
    notes = [
        f"{name} is in the {which} run alone"
        for entry, other, which in ((*entries, "first"), (*entries[::-1], "second"))
        for name in entry
        if name not in other and not only
    ]
    return [name for name in names if not only or name in only], notes


def _keys(runs: Sequence[RunResults]) -> tuple[Keys | None, list[str]]:
    """The keys of both runs' images, if both are known, and notes."""
    keys = [None if run.folder is None else read_keys(run.folder) for run in runs]
    if keys[0] is None or keys[1] is None:
        missing = runs[0 if keys[0] is None else 1].path
        return None, [
            f"there are no intervals, because no images.npz of a run's folder lies beside {missing}"
        ]
    common = len(paired(keys[0], keys[1])[0])
    if not common:
        raise SubbyteError(
            "the runs evaluated different images: compare runs of the same evaluation data"
        )
    notes = []
    if common < max(len(keys[0]), len(keys[1])):
        notes.append(
            f"metrics with an interval are of the {common} images that both runs evaluated, of "
            f"{len(keys[0])} and {len(keys[1])}"
        )
    return (keys[0], keys[1]), notes


def _right(runs: Sequence[RunResults], name: str, keys: Keys | None) -> list[dict[str, Right]]:
    """What each run was right about, of the float model or a variant.

    Args:
        runs: Both.
        name: "float", or the variant's name.
        keys: Of their images; `None`: they are not known.
    """
    found: list[dict[str, Right]] = []
    for run, own in zip(runs, keys or (), strict=keys is not None):
        assert run.folder is not None
        entry = run.folder / "float" if name == FLOAT else run.folder / "variants" / name
        found.append(read_images(entry / "images.npz", own))
    return found or [{}, {}]


def _rows(
    name: str,
    entries: tuple[Mapping[str, Any], Mapping[str, Any]],
    right: Sequence[Mapping[str, Right]],
) -> Iterator[Row]:
    """All figures of the float model or a variant.

    Args:
        name: Its name.
        entries: Of the two runs.
        right: What they were right about.
    """
    runs = [SIMULATION, *(key for key in entries[0]["deployed"] if key in entries[1]["deployed"])]
    for run in runs:
        pair = [entry if run == SIMULATION else entry["deployed"][run] for entry in entries]
        known = pair[0]["metrics"]
        for metric in known:
            values = [its["metrics"].get(metric) for its in pair]
            if None in values:
                continue
            found = paired_change(right[0].get(run), right[1].get(run), metric)
            yield _metric_row(name, run, metric, values, pair, found)
        if run != SIMULATION:
            times = [its["latency_ms"] for its in pair]
            yield _plain_row(name, run, "latency_ms", times)
    yield _plain_row(name, "", "size_bytes", [entry["size_bytes"] for entry in entries])


def _metric_row(
    name: str,
    run: str,
    metric: str,
    values: Sequence[float],
    pair: Sequence[Mapping[str, Any]],
    found: Change | None,
) -> Row:
    """A metric, paired where that is possible.

    Args:
        name: The variant's.
        run: Where it ran.
        metric: Its name.
        values: Of both runs, as in the results.
        pair: Both runs' entries.
        found: The change on the images of both.
    """
    if found is None:
        images = pair[0]["images"] if pair[0]["images"] == pair[1]["images"] else None
        before, after = values
        return Row(name, run, metric, before, after, after - before, None, images, "")
    change = found.after - found.before
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "open"
    verdict = "same" if change == 0 else verdict
    ends = (found.low, found.high)
    return Row(name, run, metric, found.before, found.after, change, ends, found.images, verdict)


def _plain_row(name: str, run: str, metric: str, values: Sequence[float]) -> Row:
    before, after = values
    change = (after - before) / before if before else 0.0
    return Row(name, run, metric, before, after, change, None, None, "")
