"""The variants of a run as tasks on a Ray cluster, whose machines need not share a disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

from subbyte.app.run_folder import EXPERIMENT, RunFolder, log_to
from subbyte.app.runner import Elsewhere, Finished, run_variant
from subbyte.app.setup import Setup
from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.utils import cores, files
from subbyte.utils.progress import Progress

CORES = 2  # that a variant takes
Contents = dict[str, bytes]  # path below a run's folder → content
log = logging.getLogger("subbyte")


def on_cluster(address: str) -> Elsewhere:
    """What runs variants on a cluster, each as a task of its own.

    The machines need Subbyte of the same version, and the model's and the images' files at the same
    places. What a task has measured comes back as files.

    Args:
        address: HOST:PORT, ray://HOST:PORT, "auto", or "local" for a cluster on this machine.
    """

    def run(setup: Setup, folder: RunFolder, names: Sequence[str], progress: Progress) -> Finished:
        del setup
        _connect(address)
        try:
            root = folder.path
            text = (root / EXPERIMENT).read_text(encoding="utf-8")
            known = ray.put(_contents(root, folder.float_path, folder.sensitivity_path))
            count = min(CORES, cores.usable() if address == "local" else CORES)
            task = ray.remote(num_cpus=count, max_retries=0)(_variant)
            begun = {name: _contents(root, folder.unfinished_path(name)) for name in names}
            waiting = {
                task.remote(text, known, begun[name], (root.name, name)): name for name in names
            }
            yield from progress.track(_finished(waiting, folder), "variants", total=len(names))
        finally:
            ray.shutdown()

    return run


def _connect(address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {"address": "local", "num_cpus": cores.usable(), "include_dashboard": False}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if ":" in address else "here"
        reason = " ".join(str(error).split())[:200]
        raise SubbyteError(
            f"there is no Ray cluster {where} ({reason}): start one with `ray start --head`, or "
            "give its address"
        ) from None


def _finished(waiting: dict[Any, str], folder: RunFolder) -> Finished:
    """The variants as they are finished; what was measured is put into the run's folder."""
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
        name = waiting.pop(ready)
        try:
            contents, missed = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SubbyteError):
                yield name, SubbyteError(" ".join(str(error.cause).split()))
            else:
                log.error("%s: %s", name, error)  # with the traceback
                fault = f"a fault of subbyte's own, see run.log: {error.cause!r}"
                yield name, SubbyteError(" ".join(fault.split()))
        except ray.exceptions.RayError as error:
            yield name, SubbyteError(f"its task was lost ({' '.join(str(error).split())[:200]})")
        else:
            _keep(contents, folder, name)
            yield name, None if missed is None else BudgetMissedError(missed)


def _keep(contents: Contents, folder: RunFolder, name: str) -> None:
    """Put into a run's folder what a task has made: the variant's whole folder, or what it began.

    Args:
        contents: The files.
        folder: The run's.
        name: The variant's.
    """
    own = folder.variant_path(name).relative_to(folder.path).as_posix() + "/"
    finished = {path.removeprefix(own): x for path, x in contents.items() if path.startswith(own)}
    for path, content in contents.items():
        if not path.startswith(own):
            with files.atomic(folder.path / path) as part:
                part.write_bytes(content)
    if finished:
        with files.atomic_folder(folder.variant_path(name)) as part:
            _write(finished, part)
        folder.forget_unfinished(name)


def _variant(
    text: str, known: Contents, begun: Contents, names: tuple[str, str]
) -> tuple[Contents, str | None]:
    """Run one variant somewhere else.

    Args:
        text: The resolved experiment.
        known: What was measured of the float model, and of its layers for searches.
        begun: What the variant's method had found before.
        names: Of the run and the variant.

    Returns:
        What was measured, as files of a run's folder, and why a search came to nothing.
    """
    from subbyte.app.experiment import load

    run, name = names
    with TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / run)  # by whose name the variant is logged
        _write({EXPERIMENT: text.encode(), **known, **begun}, folder.path)
        missed = None
        with log_to(folder.path / "run.log"):
            try:
                run_variant(load(str(folder.path / EXPERIMENT)), name, folder)
            except BudgetMissedError as error:
                missed = " ".join(str(error).split())
        own = (folder.variant_path(name), folder.unfinished_path(name))
        return _contents(folder.path, *own, folder.sensitivity_path), missed


def _contents(root: Path, *folders: Path) -> Contents:
    """The files in some folders below `root`, those that are still being written left out."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(root): path for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in named.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _write(contents: Contents, folder: Path) -> None:
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
