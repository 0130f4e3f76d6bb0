"""A float model, its simulation and its file in runtimes on the same batches, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from subbyte.data.batches import Batch, read_batch, to_device
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import device_of
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import Run, Session
from subbyte.tasks.base import arrays
from subbyte.tasks.labelled import (
    CLASSIFICATION,
    DETECTION,
    class_scores,
    kind_of,
    object_scores,
    objects_in,
)
from subbyte.tasks.metrics import classification, raw_noise
from subbyte.tasks.metrics import detection as detections
from subbyte.utils.allocator import keeping_memory
from subbyte.utils.progress import Progress

FLOAT, SIMULATION, TWIN = "float", "simulation", "simulation of the file"
SQNR_IMAGES = 64  # of detectors, whose raw outputs take a pass of their own
DESCRIBED = "verifying"
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Compared:
    """What was found on the same images.

    Attributes:
        images: How many.
        noise: As `raw_noise` returns it, of the simulation beside the float model.
        agreement_with_float: The simulation's; `None` where outputs are neither logits nor objects.
        agreement: Runtime → its own with the simulation of its file.
        largest: Runtime → the largest difference from that simulation.
        metrics: Run → metrics; empty without labels.
    """

    images: int
    noise: Mapping[str, Any]
    agreement_with_float: float | None
    agreement: Mapping[str, float | None]
    largest: Mapping[str, float | None]
    metrics: Mapping[str, Metrics]


@dataclass
class _Seen:
    """What all batches gave of a model that is captured whole."""

    names: list[str] = field(default_factory=list)
    energies: list[raw_noise.Energies] | None = field(default_factory=list)
    logits: dict[str, list[np.ndarray]] = field(default_factory=dict)
    labels: list[np.ndarray] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)
    images: int = 0


def whole_models(
    quantized: Simulation,
    twin: Simulation,
    sessions: Mapping[str, Session],
    batches: Any,
    progress: Progress,
) -> Compared:
    """Compare a model that is captured whole: a classifier, or anything with tensors as outputs.

    Args:
        quantized: The simulation.
        twin: The simulation of the file, which may be the same one.
        sessions: The file in each runtime.
        batches: Batches in any form that `read_batch` reads.
        progress: Shows how far it is.

    Raises:
        SubbyteError: The file gives other outputs than the model.
    """
    seen = _Seen()
    device = device_of(quantized)
    with torch.no_grad(), keeping_memory():
        for raw in progress.track(batches, DESCRIBED):
            batch = read_batch(raw)
            args = to_device(batch.args, device)
            args, _ = quantized.float_model.arguments(args, {})
            exact, outputs = quantized.float_model(*args), quantized(*args)
            found = {FLOAT: _floats(exact), SIMULATION: _floats(outputs)}
            found[TWIN] = found[SIMULATION] if twin is quantized else _floats(twin(*args))
            for name, session in sessions.items():
                found[name] = _deployed(session, args, found[SIMULATION], name)
            _add(seen, found, batch, sessions)
            seen.names = seen.names or raw_noise.names_of(quantized, exact)
    joined = {name: np.concatenate(parts) for name, parts in seen.logits.items()}
    labels = np.concatenate(seen.labels) if seen.labels else None
    if labels is not None and len(labels) < seen.images:
        labels = None  # metrics are those of all images, or of none
    zeros = np.zeros(seen.images, np.int64)
    logits = {
        name: classification.Logits(values, zeros if labels is None else labels)
        for name, values in joined.items()
    }

    def agree(first: str, second: str) -> float | None:
        return classification.agreement(logits[first], logits[second]) if logits else None

    scored = logits if labels is not None else {}
    return Compared(
        images=seen.images,
        noise=raw_noise.decibels_of(seen.names, seen.energies),
        agreement_with_float=agree(FLOAT, SIMULATION),
        agreement={name: agree(TWIN, name) for name in sessions},
        largest={name: seen.largest.get(name) for name in sessions},
        metrics={name: class_scores(values).metrics for name, values in scored.items()},
    )


def detectors(
    quantized: Simulation,
    runs: Mapping[str, Run],
    batches: Any,
    classes: Sequence[str] | None,
    progress: Progress,
) -> Compared:
    """Compare a detector.

    Args:
        quantized: The simulation.
        runs: Those of `FLOAT`, `SIMULATION` and `TWIN`, and each runtime's.
        batches: Batches of images, in any form that `read_batch` reads.
        classes: Names, that of label 1 first.
        progress: Shows how far it is.
    """
    found: dict[str, list[Any]] = {name: [] for name in runs}
    names, energies, truth = list[str](), list[raw_noise.Energies](), list[Any]()
    noise: list[raw_noise.Energies] | None = energies
    count, labelled = 0, True
    with torch.no_grad(), keeping_memory():
        for raw in progress.track(batches, DESCRIBED):
            batch = read_batch(raw)
            images = list(batch.args[0])
            labelled = labelled and kind_of(batch.targets) == DETECTION
            truth += objects_in(batch, count) if labelled else []
            for name, run in runs.items():
                found[name] += run(images)
            if count < SQNR_IMAGES:
                moved = to_device((images,), device_of(quantized))
                exact, outputs = quantized.float_model.raw(*moved), quantized.raw(*moved)
                noise = raw_noise.summed(noise, raw_noise.energies_of(exact, outputs))
                names = names or raw_noise.names_of(quantized, exact)
            count += len(images)
    made = {name: detections.outputs_of(rows, range(count)) for name, rows in found.items()}
    runtimes = [name for name in runs if name not in (FLOAT, SIMULATION, TWIN)]
    return Compared(
        images=count,
        noise=raw_noise.decibels_of(names, noise),
        agreement_with_float=detections.agreement(made[FLOAT], made[SIMULATION]),
        agreement={name: detections.agreement(made[TWIN], made[name]) for name in runtimes},
        largest={name: detections.largest_difference(made[TWIN], made[name]) for name in runtimes},
        metrics={
            name: object_scores(outputs, truth, classes).metrics
            for name, outputs in made.items()
            if labelled
        },
    )


def _add(
    seen: _Seen,
    found: Mapping[str, list[torch.Tensor]],
    batch: Batch,
    runtimes: Mapping[str, Any],
) -> None:
    """Take a batch's outputs into account."""
    seen.images += batch.size
    own = raw_noise.energies_of(found[FLOAT], found[SIMULATION])
    seen.energies = raw_noise.summed(seen.energies, own)
    for name in runtimes:
        pairs = zip(found[TWIN], found[name], strict=True)
        # NumPy's maximum keeps a NaN, Python's max drops it.
        largest = np.max([0.0, *(float((a - b).abs().max()) for a, b in pairs if a.numel())])
        seen.largest[name] = float(np.maximum(seen.largest.get(name, 0.0), largest))
    first = found[FLOAT][0] if len(found[FLOAT]) == 1 else None
    if first is not None and first.dim() == 2 and len(first) == batch.size:
        for name, (values,) in found.items():
            seen.logits.setdefault(name, []).append(values.numpy())
        if kind_of(batch.targets) == CLASSIFICATION:
            assert isinstance(batch.targets, torch.Tensor)
            seen.labels.append(batch.targets.cpu().numpy().astype(np.int64))


def _floats(outputs: Any) -> list[torch.Tensor]:
    leaves = [x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)]
    return [x.float().cpu() for x in leaves if x.is_floating_point()]


def _deployed(
    session: Session, args: tuple[Any, ...], like: list[torch.Tensor], name: str
) -> list[torch.Tensor]:
    """The floats that a file gives, each of the shape that the model gives.

    Args:
        session: The file in a runtime.
        args: The model's arguments.
        like: What the simulation gives for them.
        name: Of the runtime.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    found = [torch.from_numpy(x) for x in session.run(*arrays(tuple(leaves)))]
    found = [x for x in found if x.is_floating_point()]
    if [x.shape for x in found] != [x.shape for x in like]:
        shapes, own = ([list(x.shape) for x in them] for them in (found, like))
        raise SubbyteError(
            f"the file gives outputs of the shapes {shapes} in {name}, and the model of {own}: "
            "name the file that was exported from it"
        )
    return found
