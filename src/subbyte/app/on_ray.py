"""The variants of a run as tasks on a Ray cluster, whose machines need not share a disk."""

from __future__ import annotations

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
Contents = dict[str, bytes]  # of a folder: path → content


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
            text = (folder.path / EXPERIMENT).read_text(encoding="utf-8")
            known = ray.put(_contents(folder.float_path))
            count = min(CORES, cores.usable() if address == "local" else CORES)
            task = ray.remote(num_cpus=count, max_retries=0)(_variant)
            waiting = {task.remote(text, known, name): name for name in names}
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
            contents = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            missed = isinstance(error.cause, BudgetMissedError)
            kind = BudgetMissedError if missed else SubbyteError
            yield name, kind(" ".join(str(error.cause).split()))
        except ray.exceptions.RayError as error:
            yield name, SubbyteError(f"its task was lost ({' '.join(str(error).split())[:200]})")
        else:
            with files.atomic_folder(folder.variant_path(name)) as part:
                for path, content in contents.items():
                    (part / path).write_bytes(content)
            yield name, None


def _variant(text: str, known: Contents, name: str) -> Contents:
    """Run one variant somewhere else, and give what is in its folder.

    Args:
        text: The resolved experiment.
        known: What was measured of the float model.
        name: The variant's.
    """
    from subbyte.app.experiment import load

    with TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        (folder.path / EXPERIMENT).write_text(text, encoding="utf-8")
        folder.float_path.mkdir()
        for path, content in known.items():
            (folder.float_path / path).write_bytes(content)
        with log_to(folder.path / "run.log"):
            run_variant(load(str(folder.path / EXPERIMENT)), name, folder)
        return _contents(folder.variant_path(name))


def _contents(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
