"""A run, from an experiment to results: the one page on which the whole way can be read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from subbyte import api
from subbyte.app import searching, variant_layers
from subbyte.app.estimate import expected
from subbyte.app.experiment import Experiment
from subbyte.app.paired_change import add_changes
from subbyte.app.report.entry import variant_entry, warnings_of
from subbyte.app.report.page.rendering import PAGE, write_page
from subbyte.app.right import write_images
from subbyte.app.run_folder import RunFolder, command_to_resume, open_folder
from subbyte.app.setup import Setup, set_up
from subbyte.app.tracking import Observed, observing, write_table
from subbyte.app.variant_layers import Counted
from subbyte.bit_search import search
from subbyte.bit_search.settings import SearchRecipe
from subbyte.calibration import clipping, saturation
from subbyte.data.batches import ArgumentsOf
from subbyte.data.keys import image_keys
from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets import files as target_files
from subbyte.tasks.measure import Alone, Deployed, Reference, measure
from subbyte.utils import files, machine
from subbyte.utils.command import command
from subbyte.utils.observer import Observer
from subbyte.utils.progress import Progress, Silent

Tell = Callable[[str], None]
Finished = Iterator[tuple[str, SubbyteError | None]]  # a variant, and why it came to nothing
Elsewhere = Callable[[Setup, RunFolder, Sequence[str], Progress], Finished]
log = logging.getLogger("subbyte")


def run(
    experiment: Experiment,
    out: Path | None = None,
    *,
    only: tuple[str, ...] = (),
    resume: bool = False,
    progress: Progress | None = None,
    tell: Tell = log.info,
    elsewhere: Elsewhere | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Run an experiment: float, then each variant; return its folder and what `results.json` holds.

    Everything that can be found wrong is found before the folder is made.

    Args:
        experiment: What to run.
        out: The folder; `None`: runs/NAME/TIME.
        only: The names of the variants to run; empty: all.
        resume: Go on in a folder of the same experiment, keeping what is finished.
        progress: Shows how far it is.
        tell: Takes what whoever waits wants to know: where results lie, how long it may take.
        elsewhere: Runs the variants in other processes; `None`: one after the other in this one.

    Raises:
        SubbyteError: Bad input; nothing is left behind.
        KeyboardInterrupt: It was interrupted; its text says how to go on.
    """
    progress = progress or Silent()
    setup = set_up(experiment, only, progress)
    with open_folder(setup.experiment, out, resume) as folder, interruptible(folder, only):
        for sentence in [*folder.changes, f"results in {folder.path}"]:
            tell(sentence)
        described = machine.describe() | {"command": command()}
        files.write_json(folder.path / "environment.json", described)
        if not folder.float_is_done():
            run_float(setup, folder, progress)
        unfinished = [name for name in setup.variants if not folder.is_done(name)]
        for sentence in expected(setup, unfinished, one_by_one=elsewhere is None):
            tell(sentence)
        results, errors = _write_results(setup, folder, {}), dict[str, SubbyteError]()
        one_by_one = _one_by_one(setup, folder, unfinished, progress)
        others = elsewhere(setup, folder, unfinished, progress) if elsewhere else one_by_one
        for name, error in others:
            if error is not None:
                errors[name] = error
            results = _write_results(setup, folder, errors)
        write_table(experiment.log, folder.path.name, results)
        write_page([folder.path], folder.path / PAGE)
        return folder.path, results


def _one_by_one(
    setup: Setup, folder: RunFolder, names: Sequence[str], progress: Progress
) -> Finished:
    """Run variants in this process; what goes wrong with one ends the run."""
    for name in names:
        run_variant(setup.experiment, name, folder, setup=setup, progress=progress)
        yield name, None


@contextmanager
def interruptible(folder: RunFolder, only: Sequence[str]) -> Iterator[None]:
    """Let an interruption say how a run goes on.

    Args:
        folder: The run's.
        only: The names of the variants that were asked for; empty: all.
    """
    try:
        yield
    except KeyboardInterrupt:
        again = command_to_resume(folder.path, only)
        raise KeyboardInterrupt(
            f"interrupted; what is finished is kept in {folder.path}, and this goes on: {again}"
        ) from None


def run_float(setup: Setup, folder: RunFolder, progress: Progress) -> None:
    """Measure the model before quantization and write the folder `float`, whole or not at all.

    Args:
        setup: The experiment, its model and data open.
        folder: The run's.
        progress: Shows how far it is.
    """
    task, float_model = setup.task, setup.captured[None].model
    with files.atomic_folder(folder.float_path) as part, TemporaryDirectory() as scratch:
        path = part / "model.onnx"
        with progress.working("float: writing ONNX"):
            deployed = _write_float(float_model, path, setup, Path(scratch))
        found = measure(task, setup.module, deployed, "float", progress, None)
        entry = {**found.entry, "size_bytes": path.stat().st_size, "notes": found.notes}
        with observing(setup.experiment.log, _names(setup, folder, "float"), None) as observed:
            observed.measured(entry)
        task.save(found.outputs, part / "outputs.npz")
        write_images(part / "images.npz", task, found, image_keys(task.data.evaluation))
        files.write_json(part / "classes.json", task.metadata().get("classes"))
        files.write_json(part / "float.json", entry)


def run_variant(
    experiment: Experiment,
    name: str,
    folder: RunFolder,
    *,
    setup: Setup | None = None,
    progress: Progress | None = None,
    alone: Alone = nullcontext,
) -> None:
    """Quantize, export and measure one variant; write its folder, whole or not at all.

    A pure function of the resolved experiment and the name. The float outputs are read from the
    run's folder, and made if missing.

    Args:
        experiment: What is run.
        name: The variant's.
        folder: The run's.
        setup: The same experiment, its model and data open already; `None`: they are opened.
        progress: Shows how far it is.
        alone: While it lasts, no other process of the run is at work.
    """
    progress = progress or Silent()
    setup = setup or set_up(experiment, (name,), progress)
    if not folder.float_is_done():
        run_float(setup, folder, progress)
    recipe = setup.experiment.variants[name]
    log.info("variant %s: %s", name, recipe.as_dict())
    variant = _Variant(name, recipe, folder, setup, progress, alone)
    names = _names(setup, folder, name)
    with observing(setup.experiment.log, names, recipe) as observed:
        _finish(variant, observed)
    folder.forget_unfinished(name)


def _finish(variant: _Variant, observed: Observed) -> None:
    """Quantize, export and measure a variant, and write its folder.

    Args:
        variant: The variant.
        observed: Takes its losses and what was measured.
    """
    name, recipe, folder = variant.name, variant.recipe, variant.folder
    setup, progress = variant.setup, variant.progress
    quantized, searched = _quantized(variant, observed.recorder)
    calibrated = variant_layers.clipped_in_calibration(quantized, name, setup.task, progress)
    with files.atomic_folder(folder.variant_path(name)) as part, TemporaryDirectory() as scratch:
        with progress.working(f"{name}: writing ONNX"):
            runtimes = list(folder.read_float()["deployed"])  # less those that cannot load it
            deployed = _write_variant(quantized, part, runtimes, setup, Path(scratch))
        built = recipe if searched is None else searched.recipe
        entry, notes = _measured(variant, built, quantized, deployed, part, calibrated)
        if searched is not None and isinstance(recipe, SearchRecipe):
            paths = deployed.paths
            entry["search"] = searching.confirm(recipe, paths, quantized, folder, setup, progress)
            notes += [f"{key}: {x['sentence']}" for key, x in entry["search"]["confirmed"].items()]
            searching.write_found(part, searched)
        entry["notes"] = notes
        observed.recorder.write(part)
        observed.measured(entry)
        files.write_json(part / "variant.json", entry)


@dataclass(frozen=True)
class _Variant:
    """A variant and the run that it is of.

    Attributes:
        name: Its name.
        recipe: The experiment's for it.
        folder: The run's.
        setup: The run's.
        progress: Shows how far it is.
        alone: While it lasts, no other process of the run is at work.
    """

    name: str
    recipe: Recipe
    folder: RunFolder
    setup: Setup
    progress: Progress
    alone: Alone


def _names(setup: Setup, folder: RunFolder, variant: str) -> tuple[str, str, str]:
    """By what a variant is logged: its experiment, the run, its own name."""
    return setup.experiment.name, folder.path.name, variant


def _quantized(variant: _Variant, observer: Observer) -> tuple[Simulation, search.Found | None]:
    """A variant's model; and what a search found, where one decides its bits."""
    recipe, name, folder = variant.recipe, variant.name, variant.folder
    setup, progress = variant.setup, variant.progress
    if not isinstance(recipe, SearchRecipe):
        unfinished = folder.unfinished_path(name)
        return _quantize(recipe, setup, progress, unfinished, observer), None
    found = searching.search_variant(recipe, name, folder, setup, progress, variant.alone)
    found.simulation.metadata |= _metadata(setup)
    return found.simulation, found


def _measured(
    variant: _Variant,
    recipe: Recipe,
    quantized: Simulation,
    deployed: Deployed,
    part: Path,
    calibrated: Sequence[Clipping],
) -> tuple[dict[str, Any], list[str]]:
    """Measure a variant, and write what is said of its images and layers into its folder.

    Args:
        variant: The variant.
        recipe: By which its model was made.
        quantized: Its model.
        deployed: Its files.
        part: Its folder.
        calibrated: What each tensor clips of the calibration images.

    Returns:
        Its entry of the results, and what a reader must know.
    """
    name, folder, setup = variant.name, variant.folder, variant.setup
    task = setup.task
    outputs = task.load(folder.float_path / "outputs.npz")
    reference = Reference(setup.captured[recipe.regions].model, outputs)
    with clipping.counting(quantized) as evaluated, saturation.counting(quantized) as sums:
        found = measure(task, quantized, deployed, name, variant.progress, reference, variant.alone)
    write_images(part / "images.npz", task, found)
    task.illustrate(part, name, outputs, found.outputs)
    entry = variant_entry(name, recipe, quantized, found.entry, part / "model.onnx")
    add_changes(entry, part, folder.path, task.primary_metric)
    counted = Counted(evaluated, calibrated, sums)
    progress = variant.progress if setup.experiment.diagnose else None
    said, layer_notes = variant_layers.describe(part, name, quantized, task, counted, progress)
    notes = [*layer_notes, *warnings_of(quantized.reported), *found.notes]
    return entry | said, [note for note in notes if note]


def _quantize(
    recipe: Recipe, setup: Setup, progress: Progress, resume: Path, observer: Observer
) -> Simulation:
    """Quantize the model; metadata say how to prepare an image and what classes are called.

    Args:
        recipe: The variant's.
        setup: The run's.
        progress: Shows how far it is.
        resume: Where a method keeps what it has until the variant is finished.
        observer: Takes the losses of a method that learns.
    """
    captured = setup.captured[recipe.regions]
    batches = ArgumentsOf(setup.task.data.calibration, captured.model.device)
    quantized = api.quantize_captured(
        captured.model,
        batches,
        recipe,
        progress=progress,
        resume=resume,
        started=time.perf_counter() - captured.seconds,
        observer=observer,
    )
    quantized.metadata |= _metadata(setup)
    return quantized


def _write_float(float_model: FloatModel, path: Path, setup: Setup, scratch: Path) -> Deployed:
    """Write the float model to `path`, and to `scratch` without post-processing."""
    simulation = api.unquantized(float_model)
    simulation.metadata |= _metadata(setup)
    example, postprocess = setup.task.written, setup.task.postprocess
    written = target_files.export_float(
        simulation,
        path.parent,
        example,
        setup.experiment.runtimes,
        postprocess=postprocess,
        raw_folder=scratch,
    )
    return Deployed(float_model, written.of_runtime, written.raw, notes=written.notes)


def _write_variant(
    quantized: Simulation, folder: Path, runtimes: Sequence[str], setup: Setup, scratch: Path
) -> Deployed:
    """Write a variant's files from one export.

    Args:
        quantized: The variant's model.
        folder: Where they go.
        runtimes: Which runtimes they are for.
        setup: The run's.
        scratch: Where the files without post-processing go.
    """
    written = target_files.write_files(
        quantized,
        folder,
        setup.task.written,
        runtimes,
        postprocess=setup.task.postprocess,
        raw_folder=scratch,
    )
    shared = [key for key, path in written.of_runtime.items() if path == written.path]
    return Deployed(quantized, written.of_runtime, written.raw, frozenset(shared), written.notes)


def _metadata(setup: Setup) -> dict[str, Any]:
    """The metadata of files: how images are prepared, and what the classes are called."""
    return setup.task.metadata() | {"model": setup.model_name}


def _write_results(
    setup: Setup, folder: RunFolder, errors: Mapping[str, SubbyteError]
) -> dict[str, Any]:
    """Put what is finished together into `results.json`.

    Args:
        setup: The run's.
        folder: The run's.
        errors: The variants that came to nothing, and why.
    """
    experiment, task = setup.experiment, setup.task
    float_entry = folder.read_float()
    variants = [folder.read(name) for name in experiment.variants if folder.is_done(name)]
    entries = [("float", float_entry), *((entry["name"], entry) for entry in variants)]
    results = {
        "schema": 1,
        "experiment": experiment.name,
        "model": setup.model_name,
        "task": task.name,
        "primary_metric": task.primary_metric,
        "calibration_images": task.data.calibration.images,
        "evaluation_images": task.data.evaluation.images,
        "simulation_images": len(task.simulated_images),
        "overlap_images": task.data.overlap,
        "skipped_images": list(task.data.skipped),
        "classes": dict(task.coverage()),
        "seed": experiment.seed,
        "notes": setup.notes
        + [f"{name}: {note}" for name, entry in entries for note in entry.get("notes", [])],
        "float": float_entry,
        "variants": variants,
        "errors": {name: str(error) for name, error in errors.items()},
        "missed": [n for n, error in errors.items() if isinstance(error, BudgetMissedError)],
    }
    files.write_json(folder.path / "results.json", results)
    return results
