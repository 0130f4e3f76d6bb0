"""What it takes to make a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subbyte.app.report.page.reading import RunRecord
from subbyte.app.run_folder import EXPERIMENT


@dataclass(frozen=True)
class Again:
    """A run's commands, versions and machine.

    Attributes:
        name: The run's.
        yaml: The resolved experiment.
        command: With which it was run; empty where that is not known.
        rerun: That runs the same experiment again.
        report: That makes the page again.
        seed: The experiment's.
        facts: Name → value: versions, then the machine.
    """

    name: str
    yaml: str
    command: str
    rerun: str
    report: str
    seed: Any
    facts: Mapping[str, str]


def again(run: RunRecord) -> Again:
    """What it takes to make a run again."""
    environment = run.environment
    folder = run.folder.absolute()
    rerun = ["subbyte", "run", str(folder / EXPERIMENT), "--out", "NEW_FOLDER"]
    return Again(
        name=run.name,
        yaml=run.yaml,
        command=str(environment.get("command") or ""),
        rerun=shlex.join(rerun),
        report=shlex.join(["subbyte", "report", str(folder)]),
        seed=run.experiment.get("seed", 0),
        facts=dict(_facts(environment)),
    )


def _facts(environment: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    packages = environment.get("packages") or {}
    found = [("subbyte", environment.get("subbyte")), ("Python", environment.get("python"))]
    found += list(packages.items())
    found += [("system", environment.get("platform")), ("processor", environment.get("processor"))]
    cores, usable = environment.get("cores"), environment.get("usable_cores")
    if cores is not None:
        found.append(("cores", f"{cores}, of which the process may use {usable}"))
    found.append(("threads of PyTorch", environment.get("torch_threads")))
    vnni = environment.get("vnni")
    found.append(("VNNI", {True: "yes", False: "no"}.get(vnni) if vnni is not None else None))
    found.append(("GPU", environment.get("cuda")))
    return [(name, str(value)) for name, value in found if value is not None]
