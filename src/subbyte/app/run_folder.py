"""The folder of a run: what lies where, and when it may be written to."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from subbyte.app.experiment import Experiment, dump, read_yaml
from subbyte.app.resumed import Resumed, resumed
from subbyte.errors import SubbyteError
from subbyte.utils import files

EXPERIMENT = "experiment.yaml"
NOTHING = Resumed(None, (), ())  # differs, where there was no run
log = logging.getLogger("subbyte")


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run's folder. A variant's folder exists only when the variant is finished.

    Attributes:
        path: The folder.
        changes: Of a run that goes on: what differs from the experiment as it was, as sentences.
    """

    path: Path
    changes: tuple[str, ...] = ()

    @property
    def float_path(self) -> Path:
        """Where the float model's results lie."""
        return self.path / "float"

    @property
    def sensitivity_path(self) -> Path:
        """Where what was measured of layers lies, which searches share."""
        return self.path / "sensitivity"

    def variant_path(self, name: str) -> Path:
        """Where a variant's results lie."""
        return self.path / "variants" / name

    def unfinished_path(self, name: str) -> Path:
        """Where a method writes what it has of a variant, until the variant is finished."""
        return self.path / "unfinished" / name

    def forget_unfinished(self, name: str) -> None:
        """Remove what was written of a variant meanwhile."""
        path = self.unfinished_path(name)
        if path.is_dir():
            shutil.rmtree(path)
            with suppress(OSError):  # another variant, perhaps another process's, has one there
                path.parent.rmdir()

    def forget(self, name: str) -> None:
        """Remove all that there is of a variant."""
        self.forget_unfinished(name)
        if self.variant_path(name).is_dir():
            shutil.rmtree(self.variant_path(name))

    def float_is_done(self) -> bool:
        """Whether the float model has been measured."""
        return (self.float_path / "float.json").is_file()

    def is_done(self, name: str) -> bool:
        """Whether a variant is finished."""
        return (self.variant_path(name) / "variant.json").is_file()

    def read_float(self) -> dict[str, Any]:
        """What was measured of the float model."""
        return _read_json(self.float_path / "float.json")

    def read(self, name: str) -> dict[str, Any]:
        """What was measured of a variant."""
        return _read_json(self.variant_path(name) / "variant.json")


def command_to_resume(folder: Path, only: Sequence[str] = ()) -> str:
    """The command that goes on with a run, as a shell takes it.

    Args:
        folder: The run's.
        only: The names of the variants that were asked for; empty: all.
    """
    chosen = [word for name in only for word in ("--only", name)]
    command = ["subbyte", "run", folder / EXPERIMENT, "--out", folder, "--resume", *chosen]
    return shlex.join(map(str, command))


@contextmanager
def open_folder(experiment: Experiment, out: Path | None, resume: bool) -> Iterator[RunFolder]:
    """The folder for a run, while the run lasts.

    While it is open, the package's log goes to `run.log`. Bad input that comes to light before
    anything is finished takes the folder with it.

    Args:
        experiment: The resolved experiment.
        out: The folder; `None`: runs/NAME/TIME.
        resume: Go on in the folder of an earlier run of the same experiment, whose variants may
            have changed: what was measured of those that did is removed.

    Raises:
        SubbyteError: `out` is a file, or holds something else than this run.
    """
    text = dump(experiment)
    path = out if out is not None else _default_path(experiment, text, resume)
    existed = path.is_dir() and any(path.iterdir())
    differs = _check(path, text, resume)
    folder = RunFolder(path, differs.changes)
    created = None if path.is_dir() else _first_missing(path)
    files.make_folder(path)
    _sweep(path)
    try:
        with log_to(path / "run.log"):
            for name in differs.again:
                folder.forget(name)
            for change in differs.changes:
                log.info("%s", change)
            file = path / EXPERIMENT
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                files.write_text(path / EXPERIMENT, text)
            yield folder
    except SubbyteError:
        if not existed and not folder.float_is_done():
            _remove(path, created)
        raise


def _remove(path: Path, created: Path | None) -> None:
    """Undo the making of a run's folder; one that was there before stays, empty."""
    if created is not None:
        shutil.rmtree(created)
        return
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _default_path(experiment: Experiment, text: str, resume: bool) -> Path:
    root = Path("runs") / experiment.name
    if resume:
        runs = sorted((path for path in root.glob("*") if path.is_dir()), reverse=True)
        found = [(path, its) for path in runs if (its := _compared(path, text)) is not None]
        # What was measured elsewhere is not done again unless its folder is named.
        near = [(path, its) for path, its in found if its.fault is None and not its.again]
        for path, _ in sorted(near, key=lambda run: not run[1].is_same):  # the same ones first
            return path
        raise SubbyteError(
            f"there is no run of this experiment in {root} to resume: leave --resume out, or name "
            "its folder with --out"
        )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, count = root / stamp, 1
    while path.exists():
        count += 1
        path = root / f"{stamp}-{count}"
    return path


def _check(path: Path, text: str, resume: bool) -> Resumed:
    """How the experiment differs from that of the run in `path`, if it can be written there."""
    if path.exists() and not path.is_dir():
        raise SubbyteError(f"{path} is a file: name a folder for the run")
    if not path.is_dir() or not any(path.iterdir()):
        if resume and not path.is_dir():
            raise SubbyteError(f"there is no run in {path} to resume: leave --resume out")
        return NOTHING
    differs = _compared(path, text)
    if differs is None:
        raise SubbyteError(f"{path} is not empty and holds no run: name a new or an empty folder")
    if not resume:
        raise SubbyteError(
            f"{path} holds another run: name a new folder, or continue that one with --resume"
        )
    if differs.fault is not None:
        raise SubbyteError(
            f"the run in {path} is of another experiment ({differs.fault}): name another folder, "
            "for only variants may change"
        )
    return differs


def _compared(path: Path, text: str) -> Resumed | None:
    """How an experiment differs from that of the run in `path`; `None`: there is no run."""
    file = path / EXPERIMENT
    return resumed(read_yaml(file), yaml.safe_load(text)) if file.is_file() else None


def _first_missing(path: Path) -> Path:
    """The topmost folder that making `path` will make."""
    missing = path
    for parent in path.absolute().parents:
        if parent.exists():
            break
        missing = parent
    return missing


def _sweep(path: Path) -> None:
    """Remove what a killed run left half-written."""
    ours = (".float.", ".experiment.yaml.", ".environment.json.", ".results.json.", ".report.html.")
    parts = [p for p in path.glob(".*") if p.name.startswith(ours)]
    for leftover in [*parts, *(path / "variants").glob(".*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write the package's log to a file while it lasts, faults with their traceback."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before, propagates = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    except SubbyteError as error:
        log.error("%s", error)
        raise
    except Exception:
        log.error("%s", traceback.format_exc())
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(before)
        log.propagate = propagates


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
