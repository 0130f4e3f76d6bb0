"""A run, from an experiment to results: the one page on which the whole way can be read."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subbyte import api, files
from subbyte.experiment import Experiment
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import Clipping
from subbyte.progress import Progress, Silent
from subbyte.recipe import Recipe
from subbyte.report import clipping
from subbyte.report.tables import write_layers
from subbyte.runfolder import RunFolder, open_folder
from subbyte.runtime import machine, onnx, verify
from subbyte.setup import Setup, set_up
from subbyte.tasks import classification as task

FLOAT = Recipe(weights=None, activations=None, first_last=None)
LATENCY_BATCH = 1
CLIPPING_IMAGES = 64  # of the calibration: enough to compare, and few beside the evaluation
log = logging.getLogger("subbyte")


def run(
    experiment: Experiment,
    out: Path | None = None,
    *,
    only: tuple[str, ...] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Run an experiment: float, then each variant; return its folder and what `results.json` holds.

    Everything that can be found wrong is found before the folder is made. `only`: names of the
    variants to run; `resume`: go on in a folder of the same experiment, keeping what is finished.

    Raises:
        SubbyteError: Bad input; nothing is left behind.
    """
    progress = progress or Silent()
    setup = set_up(experiment, only, progress)
    with open_folder(setup.experiment, out, resume) as folder:
        files.write_text(folder.path / "environment.json", json.dumps(machine.describe(), indent=2))
        if not folder.float_is_done():
            run_float(setup, folder, progress)
        results: dict[str, Any] = {}
        for name in setup.variants:
            if not folder.is_done(name):
                run_variant(setup.experiment, name, folder, setup=setup, progress=progress)
            results = _write_results(setup, folder)
        return folder.path, results


def run_float(setup: Setup, folder: RunFolder, progress: Progress) -> None:
    """Measure the model before quantization and write the folder `float`, whole or not at all."""
    with progress.working("float: capturing the model"):
        captured = _described(api.prepare(setup.module, (setup.example,), FLOAT), setup)
    with files.atomic_folder(folder.float_path) as part:
        path = part / "model.onnx"
        with progress.working("float: writing ONNX"):
            onnx.export_float(captured, path, (setup.example,))
        paths = dict.fromkeys(map(str, setup.experiment.runtimes), path)
        entry, outputs = _measure(setup, setup.module, paths, "float", progress, None)
        entry["size_bytes"] = path.stat().st_size
        np.savez(part / "outputs.npz", logits=outputs.logits, labels=outputs.labels)
        files.write_text(part / "float.json", json.dumps(_finite(entry), indent=2))


def run_variant(
    experiment: Experiment,
    name: str,
    folder: RunFolder,
    *,
    setup: Setup | None = None,
    progress: Progress | None = None,
) -> None:
    """Quantize, export and measure one variant; write its folder, whole or not at all.

    A pure function of the resolved experiment and the name; `setup` only spares opening the model
    and the data again. The float outputs are read from the run's folder, and made if missing.
    """
    progress = progress or Silent()
    setup = setup or set_up(experiment, (name,), progress)
    if not folder.float_is_done():
        run_float(setup, folder, progress)
    recipe = setup.experiment.variants[name]
    log.info("variant %s: %s", name, recipe.as_dict())
    captured = api.quantize(
        setup.module,
        setup.data.calibration,
        recipe,
        progress=progress,
        resume=folder.unfinished_path(name),
    )
    _described(captured, setup)
    calibrated = _clipped_in_calibration(captured, name, setup, progress)
    with files.atomic_folder(folder.variant_path(name)) as part:
        path = part / "model.onnx"
        with progress.working(f"{name}: writing ONNX"):
            paths = _write_files(captured, path, setup)
        reference = _reference(folder)
        with clipping.counting(captured) as evaluated:
            entry, _ = _measure(setup, captured, paths, name, progress, reference)
        size = path.stat().st_size
        rows = api.layers(captured)
        for row, counts, before in zip(rows, evaluated, calibrated, strict=True):
            row["clipped"] = clipping.share(counts)
            row["clipped_calibration"] = clipping.share(before)
        write_layers(part / "layers.csv", rows, captured.layers)
        notes = [clipping.note(captured, evaluated, calibrated), _fallen_back(captured)]
        entry = {
            "name": name,
            "weights": recipe.weights,
            "activations": recipe.activations,
            "method": captured.facts.metadata["method"],
            **entry,
            "seconds": round(captured.facts.seconds, 3),
            "size_bytes": size,
            "packed_bytes": _packed_bytes(size, captured),
            "ranges": recipe.ranges,
            "clipped_share": clipping.share(*evaluated),
            "clipped_share_calibration": clipping.share(*calibrated),
            "blocks": captured.facts.blocks,
            "notes": [note for note in notes if note],
        }
        files.write_text(part / "variant.json", json.dumps(_finite(entry), indent=2))
    folder.forget_unfinished(name)


def _fallen_back(captured: Captured) -> str:
    """Which blocks a method could not learn; empty where there are none."""
    names = [block["block"] for block in captured.facts.blocks if block["fell_back"]]
    if not names:
        return ""
    return f"not learned, because the loss was no number: the blocks from {', '.join(names)} on"


def _clipped_in_calibration(
    captured: Captured, name: str, setup: Setup, progress: Progress
) -> list[Clipping]:
    """What each grid clips of some of the calibration images, for comparison."""
    batches = replace(setup.data.calibration, limit=CLIPPING_IMAGES)
    run = verify.simulated(captured, setup.experiment.device)
    with clipping.counting(captured) as counts:
        for batch in progress.track(batches, f"{name}: counting clipped values"):
            run(batch["inputs"])
    return counts


def _write_files(captured: Captured, path: Path, setup: Setup) -> dict[str, Path]:
    """Write `path`, and `model.RUNTIME.onnx` where it is another; runtime → the file it runs."""
    onnx.export(captured, path, (setup.example,))
    paths = dict.fromkeys(map(str, setup.experiment.runtimes), path)
    for key in onnx.own_files(captured, paths):
        paths[key] = path.with_suffix(f".{key}.onnx")
        onnx.export(captured, paths[key], (setup.example,), key)
    return paths


def _measure(
    setup: Setup,
    model: torch.nn.Module,
    paths: dict[str, Path],
    name: str,
    progress: Progress,
    reference: task.Outputs | None,
) -> tuple[dict[str, Any], task.Outputs]:
    """Metrics of the simulation and of each runtime on the same images, and latency.

    `paths`: runtime → the file that it runs. Each is compared with the simulation of that file.
    """
    device = setup.experiment.device
    runtimes = {key: verify.runtime(key) for key in paths}
    threads = os.cpu_count() or 1
    sessions = {key: runtime.load(paths[key], threads) for key, runtime in runtimes.items()}
    runs: dict[str, verify.Run] = {"simulation": verify.simulated(model, device)}
    if isinstance(model, Captured):
        runs |= {_simulation(key): _placed(model, key, device) for key in _apart(model, paths)}
    runs |= {key: verify.deployed(session) for key, session in sessions.items()}
    logits, labels = verify.outputs(runs, setup.data.evaluation, progress, f"{name}: evaluating")
    outputs = {key: task.Outputs(values, labels) for key, values in logits.items()}
    simulated = outputs["simulation"]
    entry = _scores(simulated)
    if reference is not None:
        entry["agreement_with_float"] = task.agreement(reference, simulated)
        entry["sqnr_db"] = task.sqnr_db(reference, simulated)
    if threads != machine.threads():  # the latency's: what is loaded already will do if they agree
        threads = machine.threads()
        sessions = {key: runtime.load(paths[key], threads) for key, runtime in runtimes.items()}
    candidates = sum(layer.integer for layer in getattr(model, "layers", []))
    entry["deployed"] = {
        key: {"file": paths[key].name, "version": runtime.version()}
        | _deployed(sessions[key], setup, outputs[key], outputs.get(_simulation(key), simulated))
        | {"int8_candidates": candidates}
        for key, runtime in progress.track(list(runtimes.items()), f"{name}: measuring latency")
    }
    return entry, simulated


def _simulation(runtime: str) -> str:
    return f"simulation of {runtime}'s file"


def _apart(captured: Captured, runtimes: Iterable[str]) -> list[str]:
    """The runtimes whose file has not all the grids of the simulation."""
    return [key for key in runtimes if not all(t.stands_for(key) for t in captured.tensors)]


def _placed(captured: Captured, runtime: str, device: str) -> verify.Run:
    """Simulate what the file for `runtime` computes. What it clips is not counted."""
    run = verify.simulated(captured, device)

    def placed(inputs: torch.Tensor) -> np.ndarray:
        with captured.placed_for(runtime), _uncounted(captured):
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


def _scores(outputs: task.Outputs) -> dict[str, Any]:
    metrics = task.metrics(outputs)
    interval = task.interval(metrics[task.PRIMARY_METRIC], outputs.images)
    return {
        "metrics": metrics,
        "images": outputs.images,
        "intervals": {task.PRIMARY_METRIC: list(interval)},
    }


def _deployed(
    session: verify.Session,
    setup: Setup,
    outputs: task.Outputs,
    simulated: task.Outputs,
) -> dict[str, Any]:
    example = setup.example[:LATENCY_BATCH].cpu().numpy()
    return _scores(outputs) | {
        "latency_ms": verify.latency_ms(session, example),
        "latency_batch": LATENCY_BATCH,
        "latency_threads": machine.threads(),
        "simulated": task.metrics(simulated),
        "agreement": task.agreement(simulated, outputs),
        "max_abs_diff": task.largest_difference(simulated, outputs),
        "int8_ops": session.int8_ops(),
    }


def _write_results(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """Put what is finished together into `results.json`."""
    experiment, data = setup.experiment, setup.data
    variants = [folder.read(name) for name in experiment.variants if folder.is_done(name)]
    results = {
        "schema": 1,
        "experiment": experiment.name,
        "model": setup.model_name,
        "task": "classification",
        "primary_metric": task.PRIMARY_METRIC,
        "calibration_images": data.calibration.images,
        "evaluation_images": data.evaluation.images,
        "overlap_images": data.overlap,
        "skipped_images": list(data.skipped),
        "classes": asdict(data.coverage),
        "seed": experiment.seed,
        "notes": setup.notes
        + [f"{entry['name']}: {note}" for entry in variants for note in entry.get("notes", [])],
        "float": folder.read_float(),
        "variants": variants,
    }
    files.write_text(folder.path / "results.json", json.dumps(results, indent=2))
    return results


def _finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for: NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(captured: Captured, setup: Setup) -> Captured:
    """Let the model's files say how to prepare an image and what the classes are called."""
    captured.facts.metadata |= {
        "task": "classification",
        "preprocessing": setup.data.preprocessing.model_dump(mode="json"),
        "classes": list(setup.classes),
        "model": setup.model_name,
    }
    return captured


def _reference(folder: RunFolder) -> task.Outputs:
    with np.load(folder.float_path / "outputs.npz") as arrays:
        return task.Outputs(arrays["logits"], arrays["labels"])


def _packed_bytes(size: int, captured: Captured) -> int:
    """The file's size, were each weight stored in as many bits as its grid has, not in 4 or 8."""
    saved = 0.0
    for tensor, quantizer in captured.quantizers("weight"):
        bits = quantizer.spec.bits
        saved += captured.weight(tensor).numel() * ((4 if bits <= 4 else 8) - bits) / 8
    return round(size - saved)
