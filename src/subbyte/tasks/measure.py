"""One entry of the results: a model in its simulation and in each runtime, on the same images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from subbyte.placement.simulation import Captured
from subbyte.targets import base as verify
from subbyte.targets.onnx import export as onnx
from subbyte.tasks.base import Task, arrays, one_image
from subbyte.utils import machine
from subbyte.utils.progress import Progress

LATENCY_BATCH = 1


@dataclass(frozen=True)
class Deployed:
    """A model and its files: runtime → the one that it runs, and the same without post-processing.

    raw: empty where there are no such files.
    """

    captured: Captured
    paths: Mapping[str, Path]
    raw: Mapping[str, Path]


@dataclass(frozen=True)
class Measured:
    """An entry of the results, the simulation's outputs, and what a reader must know."""

    entry: dict[str, Any]
    outputs: Any
    notes: list[str]


def measure(
    task: Task,
    model: torch.nn.Module,
    files: Deployed,
    name: str,
    progress: Progress,
    reference: Any | None,
) -> Measured:
    """Metrics of the simulation and of each runtime on the same images, and latency.

    Each runtime is compared with the simulation of its file. `reference`: the float model's
    outputs.
    """
    runtimes = {key: verify.runtime(key) for key in files.paths}
    threads = os.cpu_count() or 1
    sessions = {key: load.load(files.paths[key], threads) for key, load in runtimes.items()}
    runs = {"simulation": task.simulated(model)}
    runs |= {_simulation(key): _placed(task, model, key) for key in _apart(task, model, runtimes)}
    deployed = {key: task.deployed(session, files.captured) for key, session in sessions.items()}
    runs |= {key: run for key, run in deployed.items() if run is not None}
    parts, targets = verify.collected(runs, task.data.evaluation, progress, f"{name}: evaluating")
    outputs = {key: task.outputs(parts.pop(key), targets) for key in runs}
    scores = {key: task.scores(found) for key, found in outputs.items()}
    simulated = outputs["simulation"]
    entry, notes = dict(scores["simulation"][0]), list(scores["simulation"][1])
    if reference is not None:
        with _uncounted(files.captured):
            entry |= task.changed(reference, simulated, files.captured)
    if threads != machine.threads():  # the latency's: what is loaded already will do if they agree
        threads = machine.threads()
        sessions = {key: load.load(files.paths[key], threads) for key, load in runtimes.items()}
    entry["deployed"] = {}
    for key in progress.track(list(runtimes), f"{name}: measuring latency"):
        own: dict[str, Any] = {"file": files.paths[key].name, "version": runtimes[key].version()}
        if key in outputs:
            twin = _simulation(key) if _simulation(key) in outputs else "simulation"
            found, said = scores[key]
            own |= found | _fidelity(task, outputs[twin], outputs[key], scores[twin][0])
            notes += [f"{key}: {note}" for note in said if note not in notes]
        else:
            found, said = task.unmeasured()
            own |= {**found, "simulated": None, "agreement": None, "max_abs_diff": None}
            notes += [note for note in said if note not in notes]
        own |= _latencies(task, files, key, sessions[key])
        own["int8_ops"] = sessions[key].int8_ops()
        own["int8_candidates"] = sum(layer.integer for layer in getattr(model, "layers", []))
        entry["deployed"][key] = own
    return Measured(entry, simulated, notes)


def _simulation(runtime: str) -> str:
    return f"simulation of {runtime}'s file"


def _apart(task: Task, model: torch.nn.Module, runtimes: Iterable[str]) -> list[str]:
    """The runtimes whose file has not all the grids of the simulation, or not its images."""
    if task.reshapes:
        return list(runtimes)
    if not isinstance(model, Captured):
        return []
    return [key for key in runtimes if not all(t.stands_for(key) for t in model.tensors)]


def _placed(task: Task, model: torch.nn.Module, runtime: str) -> verify.Run:
    """Simulate what the file for `runtime` computes. What it clips is not counted."""
    run = task.simulated(model, as_written=True)
    if not isinstance(model, Captured):
        return run

    def placed(inputs: Any) -> Any:
        with model.placed_for(runtime), _uncounted(model):
            return run(inputs)

    return placed


@contextmanager
def _uncounted(captured: Captured) -> Iterator[None]:
    counts = [(quantizer, quantizer.clipping) for _, quantizer in captured.quantizers()]
    for quantizer, _ in counts:
        quantizer.clipping = None
    try:
        yield
    finally:
        for quantizer, count in counts:
            quantizer.clipping = count


def _fidelity(
    task: Task, simulated: Any, outputs: Any, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """How a runtime's own outputs differ from those of the simulation of its file."""
    return {
        "simulated": expected["metrics"],
        "agreement": task.agreement(simulated, outputs),
        "max_abs_diff": task.largest_difference(simulated, outputs),
    }


def _latencies(task: Task, files: Deployed, key: str, session: verify.Session) -> dict[str, Any]:
    """Latency at batch 1; of a detector's file also without what follows on the raw outputs."""
    image = one_image(task.written)
    inputs = arrays(onnx.arguments(files.captured, image, task.postprocess))
    found = {
        "latency_ms": verify.latency_ms(session, *inputs),
        "latency_batch": LATENCY_BATCH,
        "latency_threads": machine.threads(),
    }
    if not task.postprocess:
        found["latency_raw_ms"] = found["latency_ms"]
    elif key in files.raw:
        raw = verify.runtime(key).load(files.raw[key], machine.threads())
        found["latency_raw_ms"] = verify.latency_ms(raw, *inputs)
    return found
