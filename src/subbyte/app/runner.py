"""A run, from an experiment to results: the one page on which the whole way can be read."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from subbyte import api
from subbyte.app.experiment import Experiment
from subbyte.app.report.tables import write_layers
from subbyte.app.run_folder import RunFolder, open_folder
from subbyte.app.setup import Setup, set_up
from subbyte.calibration import clipping
from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Captured
from subbyte.recipe import Recipe
from subbyte.targets.onnx import export as onnx
from subbyte.tasks.measure import Deployed, measure
from subbyte.utils import files, machine
from subbyte.utils.progress import Progress, Silent

FLOAT = Recipe(weights=None, activations=None, first_last=None)
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
    task = setup.task
    with progress.working("float: capturing the model"):
        captured = _described(api.prepare(setup.module, task.example, FLOAT), setup)
    with files.atomic_folder(folder.float_path) as part, TemporaryDirectory() as scratch:
        path, raw = part / "model.onnx", Path(scratch) / "model.onnx"
        with progress.working("float: writing ONNX"):
            onnx.export_float(captured, path, task.written, task.postprocess, raw)
        deployed = _deployed(
            captured, dict.fromkeys(map(str, setup.experiment.runtimes), path), raw
        )
        found = measure(task, setup.module, deployed, "float", progress, None)
        entry = {**found.entry, "size_bytes": path.stat().st_size, "notes": found.notes}
        task.save(found.outputs, part / "outputs.npz")
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
    task = setup.task
    captured = api.quantize(
        setup.module,
        task.data.calibration,
        recipe,
        progress=progress,
        resume=folder.unfinished_path(name),
    )
    _described(captured, setup)
    calibrated = _clipped_in_calibration(captured, name, setup, progress)
    with files.atomic_folder(folder.variant_path(name)) as part, TemporaryDirectory() as scratch:
        path = part / "model.onnx"
        with progress.working(f"{name}: writing ONNX"):
            deployed = _write_files(captured, path, setup, Path(scratch))
        reference = task.load(folder.float_path / "outputs.npz")
        with clipping.counting(captured) as evaluated:
            found = measure(task, captured, deployed, name, progress, reference)
        task.illustrate(part, name, reference, found.outputs)
        size = path.stat().st_size
        rows = api.layers(captured)
        for row, counts, before in zip(rows, evaluated, calibrated, strict=True):
            row["clipped"] = clipping.share(counts)
            row["clipped_calibration"] = clipping.share(before)
        write_layers(part / "layers.csv", rows, captured.layers)
        clipped = clipping.note(captured, evaluated, calibrated)
        notes = [clipped, _fallen_back(captured), _not_tuned(captured), *found.notes]
        entry = {
            "name": name,
            "weights": recipe.weights,
            "activations": recipe.activations,
            "method": captured.facts.metadata["method"],
            **found.entry,
            "seconds": round(captured.facts.seconds, 3),
            "size_bytes": size,
            "packed_bytes": _packed_bytes(size, captured),
            "ranges": recipe.ranges,
            "clipped_share": clipping.share(*evaluated),
            "clipped_share_calibration": clipping.share(*calibrated),
            "blocks": captured.facts.blocks,
            "tuning": captured.facts.tuning,
            "notes": [note for note in notes if note],
        }
        files.write_text(part / "variant.json", json.dumps(_finite(entry), indent=2))
    folder.forget_unfinished(name)


def _fallen_back(captured: Captured) -> str:
    """Which blocks a method has left as they were, and why; empty where there are none."""
    names: dict[str, list[str]] = {}
    for block in captured.facts.blocks:
        if block["fell_back"]:
            names.setdefault(block["why"], []).append(block["block"])
    return "; ".join(f"not learned, because {why}: {', '.join(its)}" for why, its in names.items())


def _not_tuned(captured: Captured) -> str:
    """Why the tuning of the whole network was not kept; empty where it was, or there is none."""
    tuning = captured.facts.tuning
    return "" if tuning is None or tuning["kept"] else f"not tuned, because {tuning['why']}"


def _clipped_in_calibration(
    captured: Captured, name: str, setup: Setup, progress: Progress
) -> list[Clipping]:
    """What each grid clips of some of the calibration images, for comparison."""
    batches = replace(setup.task.data.calibration, limit=CLIPPING_IMAGES)
    run = setup.task.simulated(captured)
    with clipping.counting(captured) as counts:
        for batch in progress.track(batches, f"{name}: counting clipped values"):
            run(batch["inputs"])
    return counts


def _write_files(captured: Captured, path: Path, setup: Setup, scratch: Path) -> Deployed:
    """Write `path`, and `model.RUNTIME.onnx` where it is another."""
    example, postprocess = setup.task.written, setup.task.postprocess
    onnx.export(captured, path, example, None, postprocess, scratch / path.name)
    paths = dict.fromkeys(map(str, setup.experiment.runtimes), path)
    for key in onnx.own_files(captured, paths):
        paths[key] = path.with_suffix(f".{key}.onnx")
        own = scratch / paths[key].name
        onnx.export(captured, paths[key], example, key, postprocess, own)
    return _deployed(captured, paths, scratch / path.name)


def _deployed(captured: Captured, paths: dict[str, Path], raw: Path) -> Deployed:
    """A model's files, and beside `raw` those of a detector without post-processing."""
    beside = {key: raw.with_name(path.name) for key, path in paths.items()}
    return Deployed(captured, paths, {key: p for key, p in beside.items() if p.is_file()})


def _write_results(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """Put what is finished together into `results.json`."""
    experiment, task = setup.experiment, setup.task
    float_entry = folder.read_float()
    variants = [folder.read(name) for name in experiment.variants if folder.is_done(name)]
    said = [("float", float_entry), *((entry["name"], entry) for entry in variants)]
    results = {
        "schema": 1,
        "experiment": experiment.name,
        "model": setup.model_name,
        "task": task.name,
        "primary_metric": task.primary_metric,
        "calibration_images": task.data.calibration.images,
        "evaluation_images": task.data.evaluation.images,
        "overlap_images": task.data.overlap,
        "skipped_images": list(task.data.skipped),
        "classes": dict(task.coverage()),
        "seed": experiment.seed,
        "notes": setup.notes
        + [f"{name}: {note}" for name, entry in said for note in entry.get("notes", [])],
        "float": float_entry,
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
    captured.facts.metadata |= setup.task.metadata() | {"model": setup.model_name}
    return captured


def _packed_bytes(size: int, captured: Captured) -> int:
    """The file's size, were each weight stored in as many bits as its grid has, not in 4 or 8."""
    saved = 0.0
    for tensor, quantizer in captured.quantizers("weight"):
        bits = quantizer.spec.bits
        saved += captured.weight(tensor).numel() * ((4 if bits <= 4 else 8) - bits) / 8
    return round(size - saved)
