"""What lies in a run's folder, read for its page: of a run that broke off, what there is."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from subbyte.app.right import Right, read_images, read_keys
from subbyte.app.run_folder import EXPERIMENT, RunFolder, command_to_resume
from subbyte.errors import SubbyteError

SIMULATION, FLOAT = "simulation", "float"
IMAGES = "images.npz"


@dataclass(frozen=True)
class Entry:
    """The float model or a variant of a run, as far as its folder has it.

    Attributes:
        name: "float", or the variant's.
        folder: Where its files lie.
        measured: Its entry of the results.
    """

    name: str
    folder: Path
    measured: Mapping[str, Any]

    def json(self, name: str) -> Any:
        """What a JSON file of its folder holds; `None` where there is no such file."""
        path = self.folder / name
        return _json(path) if path.is_file() else None

    def text(self, name: str) -> str | None:
        """A text file of its folder; `None` where there is no such file."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file of its folder; none where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def places(self) -> dict[str, Mapping[str, Any]]:
        """Where it ran → what was measured there; the simulation first."""
        return {SIMULATION: self.measured, **self.measured.get("deployed", {})}


@dataclass(frozen=True)
class RunRecord:
    """A run's folder.

    Attributes:
        folder: The folder.
        name: What the page calls it, where it shows several.
        experiment: The resolved experiment.
        yaml: The same as its file has it.
        environment: Versions and machine; empty where they are not known.
        results: `results.json`; empty where the run broke off before it was written.
        float: The float model; `None` where it was not measured.
        variants: Those that are finished, in the experiment's order.
        missing: What the run lacks, as sentences.
        resume: The command that goes on with it.
    """

    folder: Path
    name: str
    experiment: Mapping[str, Any]
    yaml: str
    environment: Mapping[str, Any]
    results: Mapping[str, Any]
    float: Entry | None
    variants: tuple[Entry, ...]
    missing: tuple[str, ...] = field(default=())
    resume: str = ""

    @property
    def task(self) -> str:
        """The task; empty where nothing tells."""
        return str(self.results.get("task", ""))

    @property
    def metric(self) -> str:
        """The primary metric; of a run without results the first one that was measured."""
        if "primary_metric" in self.results:
            return str(self.results["primary_metric"])
        metrics = self.float.measured.get("metrics", {}) if self.float else {}
        return next(iter(metrics), "metric")

    @cached_property
    def classes(self) -> list[str]:
        """Their names in the order of the outputs, of a detector from label 1 on; may be empty."""
        found = self.float.json("classes.json") if self.float else None
        return [str(name) for name in found] if isinstance(found, list) else []

    @cached_property
    def keys(self) -> np.ndarray | None:
        """The keys of the evaluation images; `None` of a run that has none."""
        return read_keys(self.folder)

    def right(self, entry: Entry) -> dict[str, Right]:
        """What an entry was right about, by where it ran; empty where that is not known."""
        return {} if self.keys is None else read_images(entry.folder / IMAGES, self.keys)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read the folders of runs.

    Raises:
        SubbyteError: One of them is not a run's, its files cannot be read, or the runs are of
            different tasks.
    """
    runs = [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    kinds = {(run.task, run.metric) for run in runs if run.results}
    if len(kinds) > 1:
        tasks = ", ".join(sorted(f"{task} ({metric})" for task, metric in kinds))
        raise SubbyteError(f"the runs differ in their task, {tasks}: name runs of the same task")
    return runs


def _read(folder: Path, name: str) -> RunRecord:
    path = folder / EXPERIMENT
    if not folder.exists():
        raise SubbyteError(f"there is no folder {folder}: name the folder of a run")
    if not path.is_file():
        raise SubbyteError(f"{folder} holds no run, for there is no {path}: name a run's folder")
    try:
        text = path.read_text(encoding="utf-8")
        experiment = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubbyteError(f"{path} is not YAML ({error}): name a run's folder") from None
    if not isinstance(experiment, dict) or not isinstance(experiment.get("variants"), dict):
        raise SubbyteError(f"{path} is not an experiment with variants: name a run's folder")
    run = RunFolder(folder)
    results = _json(folder / "results.json") if (folder / "results.json").is_file() else {}
    done = [name for name in experiment["variants"] if run.is_done(name)]
    return RunRecord(
        folder,
        name,
        experiment,
        text,
        _json(folder / "environment.json") if (folder / "environment.json").is_file() else {},
        results,
        Entry(FLOAT, run.float_path, _json(run.float_path / "float.json"))
        if run.float_is_done()
        else None,
        tuple(Entry(name, run.variant_path(name), run.read(name)) for name in done),
        tuple(_missing(run, experiment, results, done)),
        command_to_resume(folder.absolute()),
    )


def _missing(
    run: RunFolder, experiment: Mapping[str, Any], results: Mapping[str, Any], done: Sequence[str]
) -> list[str]:
    """What a run lacks, as sentences.

    Args:
        run: Its folder.
        experiment: The resolved experiment.
        results: As in `results.json`; empty where there is none.
        done: The names of the finished variants.
    """
    found, untouched = [], []
    if not run.float_is_done():
        found.append("The float model was not measured: the run broke off before that.")
    errors = results.get("errors", {})
    for name in experiment["variants"]:
        if name in errors and name not in done:
            found.append(f"Variant {name} came to nothing: {errors[name]}.")
        elif run.unfinished_path(name).is_dir() and name not in done:
            found.append(f"Variant {name} is not finished; what its method had found is kept.")
        elif name not in done:
            untouched.append(name)
    if untouched:
        found.append(f"Not run: {', '.join(untouched)}.")
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """A short name for each run: the ends of the paths, as long as it takes to tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(its[-length:]) for its in parts]
        if len(set(names)) == len(names):
            return names
    doubled = shlex.join(sorted({str(f) for f in folders if folders.count(f) > 1}))
    raise SubbyteError(f"{doubled} is named twice: name each run once")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SubbyteError(
            f"{path} is not JSON ({error}): make the run again, or name another one"
        ) from None
