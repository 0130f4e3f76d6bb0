"""A variant whose bits a search decides: what it is judged by, and its confirmation in runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

from subbyte.app.run_folder import RunFolder
from subbyte.app.sensitivities import write_csv
from subbyte.app.setup import Setup
from subbyte.bit_search import budget, search
from subbyte.bit_search.costs import file_bytes
from subbyte.bit_search.latency import Profiles, layer_times, side_by_side
from subbyte.bit_search.settings import Search, SearchRecipe, shown
from subbyte.data.batches import ArgumentsOf
from subbyte.errors import BudgetMissedError
from subbyte.graph.float_model import Regional
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets import base as targets
from subbyte.targets import files as target_files
from subbyte.tasks.base import Task, arrays, one_image
from subbyte.tasks.measure import Alone
from subbyte.tasks.metrics.paired import Paired
from subbyte.utils import cores, files, machine
from subbyte.utils.progress import Progress


def search_variant(
    recipe: SearchRecipe,
    name: str,
    folder: RunFolder,
    setup: Setup,
    progress: Progress,
    alone: Alone = nullcontext,
) -> search.Found:
    """Search for a variant's bits on one part of the evaluation images.

    Args:
        recipe: The variant's.
        name: The variant's.
        folder: The run's.
        setup: The run's.
        progress: Shows how far it is.
        alone: While it lasts, no other process of the run is at work.

    Raises:
        SubbyteError: The budget is more than the metric, or there is no metric.
        BudgetMissedError: The time passed before anything was built.
    """
    task, asked = setup.task, recipe.search
    part = budget.split(task.data.evaluation.images, asked.seed)
    float_model = setup.captured[recipe.regions].model
    reference = _outputs(task, setup.module, part.searching, progress, f"{name}: float")
    metric = task.paired(reference, reference).before
    asked.check_metric(metric)

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
            judges=_judges(lost, asked, folder, setup, alone),
            show=shown(asked.objective),
            folder=folder.unfinished_path(name),
            progress=progress,
            shared=folder.sensitivity_path,
        )
    )
    if found is None:
        raise BudgetMissedError(
            f"variants.{name}: time_limit of {asked.time_limit:g} minutes passed before any "
            "configuration was built; what was measured of the layers is kept, and --resume goes "
            "on with it: give a longer one"
        )
    return found


def _judges(
    lost: Callable[[Simulation], Paired],
    asked: Search,
    folder: RunFolder,
    setup: Setup,
    alone: Alone,
) -> search.Judges:
    """How a configuration is judged, by the objective.

    Args:
        lost: Its metric beside the float model's.
        asked: What is asked for.
        folder: The run's.
        setup: The run's.
        alone: While it lasts, no other process of the run is at work.
    """
    task = setup.task
    if asked.runtime is None:
        return search.Judges(
            lost,
            lambda simulation: file_bytes(simulation, task.written, postprocess=task.postprocess),
        )
    float_path = target_files.file_in(folder.float_path, asked.runtime)
    clock = _Clock(asked.runtime, float_path, setup, alone)
    return search.Judges(lost, clock.ms, clock.profiles)


@dataclass
class _Clock:
    """Measures files beside the float model's, in one runtime.

    Attributes:
        runtime: Its name.
        float_path: The float model's file.
        setup: The run's.
        alone: While it lasts, no other process of the run is at work.
        float_ms: What the float model's file took when it was measured first.
    """

    runtime: str
    float_path: Path
    setup: Setup
    alone: Alone
    float_ms: float | None = None

    def ms(self, simulation: Simulation) -> float:
        """The latency of a model's file, as if the float model's always took what it took first."""
        load, threads = targets.runtime(self.runtime).load, machine.threads()
        with TemporaryDirectory() as scratch:
            path = self._written(simulation, Path(scratch))
            sessions = [load(self.float_path, threads), load(path, threads)]
            inputs = [self._inputs(self._float_model), self._inputs(simulation)]
            with self.alone():
                before, after = side_by_side(sessions, inputs)
        self.float_ms = self.float_ms or before
        return after / before * self.float_ms

    def profiles(self, simulation: Simulation) -> Profiles:
        """What layers take in the file of a model on integers, and in the float model's."""
        node_times = targets.node_times(self.runtime)
        layers = [layer.name for layer in simulation.placement.layers]
        threads = machine.threads()
        with TemporaryDirectory() as scratch:
            path = self._written(simulation, Path(scratch))
            with self.alone():
                integer = node_times(path, threads, self._inputs(simulation))
                floating = node_times(self.float_path, threads, self._inputs(self._float_model))
            return Profiles(
                layer_times(path, integer, layers), layer_times(self.float_path, floating, layers)
            )

    @property
    def _float_model(self) -> Regional:
        return self.setup.captured[None].model

    def _written(self, simulation: Simulation, folder: Path) -> Path:
        path, task = target_files.file_in(folder, self.runtime), self.setup.task
        target_files.export(simulation, path, task.written, self.runtime, task.postprocess)
        return path

    def _inputs(self, model: Regional) -> tuple[np.ndarray, ...]:
        task = self.setup.task
        return arrays(target_files.arguments(model, one_image(task.written), task.postprocess))


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
    float_model = setup.captured[recipe.regions].model
    confirmed: dict[str, Any] = {}
    runs: dict[str, tuple[Any, Any]] = {}
    for key, path in paths.items():
        load = targets.runtime(key).load
        float_path = target_files.file_in(folder.float_path, key)
        before = task.deployed(load(float_path, cores.share()), float_model)
        after = task.deployed(load(path, cores.share()), quantized)
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
    files.write_json(folder / "frontier.json", found.frontier())
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
