"""A variant whose bits a search decides: what it is judged by, and its confirmation in runtimes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from subbyte.app.run_folder import RunFolder
from subbyte.app.sensitivities import write_csv
from subbyte.app.setup import Setup
from subbyte.bit_search import budget, search
from subbyte.bit_search.costs import packed_bytes
from subbyte.bit_search.settings import SearchRecipe
from subbyte.data.batches import ArgumentsOf
from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets import base as targets
from subbyte.targets.onnx import export as onnx
from subbyte.tasks.base import Task
from subbyte.tasks.metrics.paired import Paired
from subbyte.utils import cores, files
from subbyte.utils.progress import Progress


def check_split(setup: Setup) -> None:
    """Refuse searches that the evaluation images are too few for.

    Raises:
        SubbyteError: A variant searches and there are too few.
    """
    for name in setup.variants:
        recipe = setup.experiment.variants[name]
        if isinstance(recipe, SearchRecipe):
            try:
                budget.split(setup.task.data.evaluation.images, recipe.search.seed)
            except SubbyteError as error:
                raise SubbyteError(f"variants.{name}: {error}") from None


def search_variant(
    recipe: SearchRecipe, name: str, folder: RunFolder, setup: Setup, progress: Progress
) -> search.Found:
    """Search for a variant's bits on one part of the evaluation images.

    Args:
        recipe: The variant's.
        name: The variant's.
        folder: The run's.
        setup: The run's.
        progress: Shows how far it is.

    Raises:
        SubbyteError: The budget is more than the metric.
        BudgetMissedError: The time passed before anything was built.
    """
    task, asked = setup.task, recipe.search
    part = budget.split(task.data.evaluation.images, asked.seed)
    float_model = setup.captured[recipe.regions].model
    reference = _outputs(task, setup.module, part.searching, progress, f"{name}: float")
    metric = task.paired(reference, reference).before

    def lost(simulation: Simulation) -> Paired:
        found = _outputs(task, simulation, part.searching, progress, f"{name}: measuring")
        return task.paired(reference, found)

    found = search.run(
        search.Asked(
            float_model=float_model,
            batches=ArgumentsOf(task.data.calibration, float_model.device),
            base=recipe.base(),
            search=asked,
            budget=asked.budget(metric),
            judges=search.Judges(lost, lambda simulation, _: written_bytes(simulation, task)),
            show=lambda cost: f"{cost / 1000:.0f} kB",
            folder=folder.unfinished_path(name),
            progress=progress,
        )
    )
    if found is None:
        raise BudgetMissedError(
            f"variants.{name}: time_limit of {asked.time_limit:g} minutes passed before any "
            "configuration was built; what was measured of the layers is kept, and --resume goes "
            "on with it: give a longer one"
        )
    return found


def written_bytes(simulation: Simulation, task: Task) -> float:
    """The size of the file for all runtimes, each weight stored in as many bits as it has."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.export(simulation, path, task.written, None, task.postprocess)
        return float(packed_bytes(path.stat().st_size, simulation))


def confirm(
    recipe: SearchRecipe,
    paths: Mapping[str, Path],
    quantized: Simulation,
    folder: RunFolder,
    setup: Setup,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the variant's files beside the float model's on images that did not search, once.

    Args:
        recipe: The variant's.
        paths: Runtime → the file that it runs; empty: the simulation is measured.
        quantized: The variant.
        folder: The run's, with the float model's file.
        setup: The run's.
        progress: Shows how far it is.

    Returns:
        The key `search` of the variant's entry.
    """
    task, asked = setup.task, recipe.search
    part = budget.split(task.data.evaluation.images, asked.seed)
    float_path = folder.float_path / "model.onnx"
    float_model = setup.captured[recipe.regions].model
    confirmed: dict[str, Any] = {}
    runs: dict[str, tuple[Any, Any]] = {}
    for key, path in paths.items():
        load = targets.runtime(key).load
        before = task.deployed(load(float_path, cores.usable()), float_model)
        after = task.deployed(load(path, cores.usable()), quantized)
        if before is not None and after is not None:
            runs[key] = (before, after)
    if not runs:
        runs["simulation"] = (task.simulated(setup.module), task.simulated(quantized))
    batches = task.data.evaluation.take(part.confirming)
    for key, pair in runs.items():
        named = dict(zip(("float", "quantized"), pair, strict=True))
        parts, labels = targets.collected(named, batches, progress, f"confirming in {key}")
        first, second = (task.outputs(parts[x], labels, part.confirming) for x in named)
        paired = task.paired(first, second)
        confirmed[key] = budget.verdict(paired, asked, asked.budget(paired.before))
    return {
        "max_drop": asked.max_drop,
        "relative": asked.relative,
        "objective": asked.objective,
        "confidence": asked.confidence,
        "met": all(found["met"] for found in confirmed.values()),
        "searching_images": len(part.searching),
        "confirmed": confirmed,
    }


def write_found(folder: Path, found: search.Found) -> None:
    """Write `recipe.yaml`, `frontier.json` and `sensitivity.csv` into a variant's folder."""
    write_recipe(folder / "recipe.yaml", found.recipe)
    files.write_text(folder / "frontier.json", json.dumps(found.frontier(), indent=2))
    write_csv(folder / "sensitivity.csv", found.sensitivity)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe's fields as YAML, as a variant of an experiment takes them."""
    files.write_text(path, yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True))


def _outputs(
    task: Task,
    model: torch.nn.Module,
    numbers: Sequence[int],
    progress: Progress,
    described: str,
) -> Any:
    """What a model gives in PyTorch for some evaluation images."""
    batches = task.data.evaluation.take(numbers)
    runs = {"model": task.simulated(model)}
    parts, labels = targets.collected(runs, batches, progress, described)
    return task.outputs(parts["model"], labels, numbers)
