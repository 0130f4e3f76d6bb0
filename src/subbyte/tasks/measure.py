"""One entry of the results: a model in its simulation and in each runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from subbyte.calibration import clipping
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel, Regional
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import base as targets
from subbyte.targets import files as target_files
from subbyte.tasks.base import Task, arrays, one_image
from subbyte.utils import cores, machine
from subbyte.utils.progress import Progress

LATENCY_BATCH = 1
SIMULATION = "simulation"
Runs = Mapping[str, targets.Run]
Alone = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Deployed:
    """A model and its files.

    Attributes:
        model: The model.
        paths: Runtime → the file that it runs.
        raw: Runtime → the same without post-processing; empty where there are no such files.
        shared: The runtimes that run the file for all, which has all quantizers.
        notes: What files do not have.
    """

    model: Regional
    paths: Mapping[str, Path]
    raw: Mapping[str, Path]
    shared: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The float model that a variant is compared with.

    Attributes:
        model: The model.
        outputs: Its outputs for the images that the simulation takes.
    """

    model: FloatModel
    outputs: Any


@dataclass(frozen=True)
class Measured:
    """What was measured of a model and its files.

    Attributes:
        entry: Of the results.
        outputs: The simulation's.
        notes: What a reader must know.
        per_image: Run → what was right of each image, as the task says it.
    """

    entry: dict[str, Any]
    outputs: Any
    notes: list[str]
    per_image: dict[str, dict[str, Any]]


def measure(
    task: Task,
    model: torch.nn.Module,
    files: Deployed,
    name: str,
    progress: Progress,
    reference: Reference | None,
    alone: Alone = nullcontext,
) -> Measured:
    """Metrics of the simulation and of each runtime, and latency.

    Runtimes run all evaluation images, simulations those of `task.simulated_images`. Each runtime
    is compared with the simulation of its file on the images that both have. A runtime that cannot
    load the float model's own file is left out, with a note.

    Args:
        task: The images, and how outputs are read.
        model: The simulation; of the float model the user's own module.
        files: The model's files.
        name: Of the entry, for the progress.
        progress: Shows how far it is.
        reference: The float model to compare with; `None` where the entry is its own.
        alone: While it lasts, no other process of the run is at work.
    """
    runtimes = {key: targets.runtime(key) for key in files.paths}
    threads = cores.share()
    sessions, unloaded = _loaded(runtimes, files, threads, all_must=reference is not None)
    runtimes = {key: runtimes[key] for key in sessions}
    files = replace(files, paths={key: files.paths[key] for key in sessions})
    simulated = {SIMULATION: task.simulated(model)}
    simulated |= {
        _twin(key): _placed(task, model, key, files) for key in _apart(task, model, files)
    }
    made = {key: task.deployed(session, files.model) for key, session in sessions.items()}
    deployed = {key: run for key, run in made.items() if run is not None}
    outputs = _outputs(task, simulated, deployed, name, progress)
    scores = {key: task.score(found) for key, found in outputs.items()}
    entry, notes = dict(scores[SIMULATION][0]), [*scores[SIMULATION][1], *files.notes, *unloaded]
    if reference is not None and isinstance(model, Simulation):
        with clipping.not_counting(model):
            entry |= task.compare_with_float(
                reference.outputs, outputs[SIMULATION], model, reference.model
            )
    if threads != machine.threads():  # the latency's: what is loaded already will do if they agree
        threads = machine.threads()
        sessions = {key: load.load(files.paths[key], threads) for key, load in runtimes.items()}
    entry["deployed"] = {}
    for key in progress.track(list(runtimes), f"{name}: measuring latency"):
        own: dict[str, Any] = {"file": files.paths[key].name, "version": runtimes[key].version()}
        if key in outputs:
            found, warnings = scores[key]
            own |= found | _fidelity(task, outputs, scores, key)
            notes += [f"{key}: {note}" for note in warnings if note not in notes]
        else:
            found, warnings = task.unmeasured()
            own |= {**found, "simulated": None, "agreement": None, "max_abs_diff": None}
            own["agreement_images"] = 0
            notes += [note for note in warnings if note not in notes]
        with alone():
            own |= _latencies(task, files, key, sessions[key])
        own["int8_ops"] = sessions[key].int8_ops()
        own["int8_candidates"] = _int8_candidates(model)
        entry["deployed"][key] = own
    runs = [key for key in (SIMULATION, *files.paths) if key in outputs]
    per_image = {key: task.per_image(outputs[key]) for key in runs}
    return Measured(entry, outputs[SIMULATION], notes, per_image)


def _loaded(
    runtimes: Mapping[str, targets.Runtime], files: Deployed, threads: int, *, all_must: bool
) -> tuple[dict[str, targets.Session], list[str]]:
    """The files in their runtimes; and a note for each runtime that cannot load its own.

    Args:
        runtimes: By name.
        files: The model's files.
        threads: On how many they run.
        all_must: A file that cannot be loaded is an error.
    """
    sessions, notes = dict[str, targets.Session](), list[str]()
    for key, runtime in runtimes.items():
        path = files.paths[key]
        try:
            sessions[key] = runtime.load(path, threads)
        except SubbyteError as error:
            if all_must:
                raise
            reason = str(error).replace(str(path), "the float model's file")
            notes.append(f"{key} is left out of this run: {reason}")
    return sessions, notes


def _outputs(
    task: Task, simulated: Runs, deployed: Runs, name: str, progress: Progress
) -> dict[str, Any]:
    """What each run gives: those in runtimes for all images, the others for some of them."""
    evaluation, some = task.data.evaluation, task.simulated_images
    everything = tuple(range(evaluation.images))
    passes = [({**simulated, **deployed}, everything, f"{name}: evaluating")]
    if some != everything:
        passes = [(dict(deployed), everything, f"{name}: evaluating")] if deployed else []
        passes.append((dict(simulated), some, f"{name}: simulating"))
    outputs: dict[str, Any] = {}
    for runs, numbers, described in passes:
        batches = evaluation if numbers == everything else evaluation.take(numbers)
        parts, labels = targets.collected(runs, batches, progress, described)
        outputs |= {key: task.outputs(parts.pop(key), labels, numbers) for key in runs}
    return outputs


def _twin(runtime: str) -> str:
    """The name of the simulation of a runtime's own file."""
    return f"simulation of {runtime}'s file"


def _apart(task: Task, model: torch.nn.Module, files: Deployed) -> list[str]:
    """The runtimes whose file has not all the quantizers of the simulation, its sums or images."""
    if task.reshapes:
        return list(files.paths)
    if isinstance(model, Simulation) and model.placement.sums:
        return list(files.paths)
    tensors = model.placement.tensors if isinstance(model, Simulation) else ()
    own = [key for key in files.paths if key not in files.shared]
    return [key for key in own if not all(tensor.stands_for(key) for tensor in tensors)]


def _placed(task: Task, model: torch.nn.Module, runtime: str, files: Deployed) -> targets.Run:
    """Simulate what the file that `runtime` runs computes; what it clips is not counted."""
    if isinstance(model, Simulation):
        placement = model.placement.for_target(None if runtime in files.shared else runtime)
        model = simulate(model.float_model, placement.with_plain_sums(), model.params)
    return task.simulated(model, as_written=True)


def _int8_candidates(model: torch.nn.Module) -> int:
    layers = model.placement.layers if isinstance(model, Simulation) else ()
    return sum(layer.integer for layer in layers)


def _fidelity(
    task: Task, outputs: Mapping[str, Any], scores: Mapping[str, Any], runtime: str
) -> dict[str, Any]:
    """How a runtime's own outputs differ from those of the simulation of its file."""
    twin = _twin(runtime) if _twin(runtime) in outputs else SIMULATION
    common = outputs[runtime].take(task.simulated_images)
    return {
        "simulated": scores[twin][0]["metrics"],
        **task.compare(outputs[twin], common),
        "agreement_images": len(task.simulated_images),
    }


def _latencies(task: Task, files: Deployed, key: str, session: targets.Session) -> dict[str, Any]:
    """Latency at batch 1; of a detector's file also without what follows on the raw outputs."""
    image = one_image(task.written)
    inputs = arrays(target_files.arguments(files.model, image, task.postprocess))
    found = {
        "latency_ms": targets.latency_ms(session, *inputs),
        "latency_batch": LATENCY_BATCH,
        "latency_threads": machine.threads(),
    }
    if not task.postprocess:
        found["latency_raw_ms"] = found["latency_ms"]
    elif key in files.raw:
        raw = targets.runtime(key).load(files.raw[key], machine.threads())
        found["latency_raw_ms"] = targets.latency_ms(raw, *inputs)
    return found
