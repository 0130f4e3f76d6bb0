"""Everything a run needs, opened and checked before its folder is made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from subbyte import api, models
from subbyte.app import tracking
from subbyte.app.arguments import check_experiment
from subbyte.app.experiment import Experiment
from subbyte.app.inspection import example_of, size_of_input
from subbyte.app.loading import load_model
from subbyte.bit_search import budget
from subbyte.bit_search.settings import SearchRecipe
from subbyte.data import image_roots
from subbyte.data.batches import to_device
from subbyte.data.few_images import note_on_few
from subbyte.data.images import image_files
from subbyte.detectors.raw_outputs import RawDetector
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.models import ModelSpec
from subbyte.placement.place import check_overrides
from subbyte.targets import base as targets
from subbyte.targets import files as target_files
from subbyte.tasks.base import Asked, Task, task_for
from subbyte.utils import machine
from subbyte.utils.progress import Progress

Regions = tuple[str, ...] | None  # as a recipe names them


@dataclass(frozen=True)
class FloatCapture:
    """A float model, and how long its capture took.

    Attributes:
        model: The model.
        seconds: How many seconds.
    """

    model: FloatModel
    seconds: float


@dataclass(frozen=True)
class Setup:
    """An experiment whose model and data are open.

    Attributes:
        experiment: With what was resolved of its data.
        module: The float model.
        model_name: What results call it.
        task: Its images, and how outputs are read.
        variants: The names to run.
        captured: The model, captured once for each `regions` that recipes ask for; `None` are those
            that are found.
        notes: What the reader of the numbers must know.
    """

    experiment: Experiment
    module: torch.nn.Module
    model_name: str
    task: Task
    variants: tuple[str, ...]
    captured: Mapping[Regions, FloatCapture]
    notes: list[str] = field(default_factory=list)


def set_up(experiment: Experiment, only: tuple[str, ...], progress: Progress) -> Setup:
    """Open an experiment's model and data, and check all that can be checked without measuring.

    Args:
        experiment: What is to be run.
        only: The names of the variants to run; empty: all.
        progress: Shows how far it is.

    Raises:
        SubbyteError: Anything that would make the run fail later.
    """
    check_experiment(experiment, only)  # before weights are downloaded in vain
    _check_split(experiment, only, _most_images(experiment))
    tracking.check(experiment.log)
    for name in experiment.runtimes:
        targets.runtime(name).version()
    _check_clocks(experiment, only)
    with progress.working("loading the model"):
        spec = load_model(experiment.model, experiment.data.preprocessing)
    spec.module.to(experiment.device)
    asked = _asked(experiment)
    kind = task_for(spec, experiment.data, own=experiment.model.name is None)
    _check_names(experiment, spec, progress)
    task, data = kind.open_task(asked, spec, progress)
    _check_split(experiment, only, task.data.evaluation.images)
    with progress.working("capturing the model"):
        captured = _captured(experiment, spec.module, task)
    target_files.check_boxes(experiment.runtimes, captured[None].model, task.postprocess)
    return Setup(
        experiment=experiment.model_copy(update={"data": data}),
        module=spec.module,
        model_name=spec.name,
        task=task,
        variants=tuple(dict.fromkeys(only or experiment.variants)),
        captured=captured,
        notes=[*spec.notes, *_notes(experiment, task)],
    )


def capture(module: torch.nn.Module, task: Task, regions: Regions) -> FloatCapture:
    """The float model with its regions.

    Args:
        module: The user's model.
        task: Its images.
        regions: As a recipe names them; `None`: those that are found.

    Raises:
        SubbyteError: It cannot be captured, or not be written.
    """
    started = time.perf_counter()
    model = api.capture(module, task.example, regions)
    seconds = time.perf_counter() - started
    target_files.arguments(model, task.written, task.postprocess)
    return FloatCapture(model, seconds)


def _check_names(experiment: Experiment, spec: ModelSpec, progress: Progress) -> None:
    """Refuse overrides that name no layer of a raw network before its images are read.

    Only of a network whose input has one size whatever the images are: its layers are then those
    of the capture that the run makes.
    """
    module = spec.module
    recipes = [recipe for recipe in experiment.variants.values() if recipe.overrides]
    if not isinstance(module, RawDetector) or size_of_input(module) is None or not recipes:
        return
    with progress.working("looking for the layers of overrides"):
        found = api.capture(module, to_device(example_of(spec), torch.device(experiment.device)))
    for name, recipe in experiment.variants.items():
        if recipe.regions is None:
            with _prefixed(f"variants.{name}"):
                check_overrides(recipe, found)


@contextmanager
def _prefixed(name: str) -> Iterator[None]:
    """What is refused meanwhile is refused of `name`."""
    try:
        yield
    except SubbyteError as error:
        raise SubbyteError(f"{name}: {error}") from None


def _check_split(experiment: Experiment, only: tuple[str, ...], images: int | None) -> None:
    """Refuse searches that so many evaluation images are too few for; `None`: not known."""
    for name, recipe in experiment.variants.items():
        if images is not None and isinstance(recipe, SearchRecipe) and name in (only or (name,)):
            with _prefixed(f"variants.{name}"):
                budget.split(images, recipe.search.seed)


def _check_clocks(experiment: Experiment, only: tuple[str, ...]) -> None:
    """Refuse searches by latency in a runtime that has no profile, or is not installed."""
    for name, recipe in experiment.variants.items():
        asked = recipe.search.runtime if isinstance(recipe, SearchRecipe) else None
        if asked is not None and name in (only or (name,)):
            with _prefixed(f"variants.{name}"):
                targets.node_times(asked)
                targets.runtime(asked).version()


def _most_images(experiment: Experiment) -> int | None:
    """How many evaluation images there are at most, by what can be seen before they are opened."""
    data = experiment.data
    counts = [] if data.evaluation_images is None else [data.evaluation_images]
    if data.name is None and models.is_classifier(experiment.model):
        counts.append(len(image_files(image_roots(data)[1])))
    return min(counts, default=None)


def _asked(experiment: Experiment) -> Asked:
    return Asked(
        data=experiment.data,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        device=experiment.device,
        postprocess=experiment.export.postprocess,
        simulation_images=experiment.simulation_images,
    )


def _captured(
    experiment: Experiment, module: torch.nn.Module, task: Task
) -> dict[Regions, FloatCapture]:
    """The float models of an experiment; refuses recipes that cannot be put on them."""
    found: dict[Regions, FloatCapture] = {None: capture(module, task, None)}
    for name, recipe in experiment.variants.items():
        with _prefixed(f"variants.{name}"):
            api.check_recipe(recipe)
            if recipe.regions not in found:
                found[recipe.regions] = capture(module, task, recipe.regions)
            check_overrides(recipe, found[recipe.regions].model)
    return found


def _notes(experiment: Experiment, task: Task) -> list[str]:
    notes = []
    model, data = experiment.model, task.data
    if models.is_random(model):
        notes.append(f"{model.name} has random weights: give model.weights or model.checkpoint")
    if data.overlap:
        notes.append(
            f"{data.overlap} of the {data.calibration.images} calibration images are evaluated too"
        )
    if data.skipped:
        notes.append(f"{len(data.skipped)} broken images were skipped")
    notes.extend(note_on_few(data.calibration.images))
    notes.extend(data.notes)
    if machine.has_vnni() is False:
        notes.append(
            "this processor has no VNNI: its 8-bit sums can saturate, so that deployed models "
            "differ from simulated ones (reduce_range: true prevents it)"
        )
    return notes
