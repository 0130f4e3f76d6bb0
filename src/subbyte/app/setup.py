"""Everything a run needs, opened and checked before its folder is made."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from subbyte import api, models
from subbyte.app.experiment import Experiment
from subbyte.data import image_roots
from subbyte.errors import SubbyteError, unknown
from subbyte.placement.insert import check_overrides
from subbyte.recipe import Recipe
from subbyte.targets import base as verify
from subbyte.targets.onnx import export as onnx
from subbyte.tasks import classification, detection
from subbyte.tasks.base import Task
from subbyte.utils import machine
from subbyte.utils.progress import Progress


@dataclass(frozen=True)
class Setup:
    """An experiment whose model and data are open.

    `task`: its images, and how outputs are read. `variants`: the names to run. `notes`: what the
    reader of the numbers must know.
    """

    experiment: Experiment
    module: torch.nn.Module
    model_name: str
    task: Task
    variants: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def set_up(experiment: Experiment, only: tuple[str, ...], progress: Progress) -> Setup:
    """Open an experiment's model and data, and check all that can be checked without measuring.

    Raises:
        SubbyteError: Anything that would make the run fail later.
    """
    for name in only:
        if name not in experiment.variants:
            raise unknown("variant", name, experiment.variants)
    for name in experiment.runtimes:
        verify.runtime(name).version()
    if experiment.data.name is None and models.is_classifier(experiment.model):
        image_roots(experiment.data)  # before weights are downloaded in vain
    with progress.working("loading the model"):
        spec = models.load(experiment.model)
    spec.module.to(experiment.device)
    # Of a user's own module nothing but the data says what it is for.
    detects = experiment.model.factory is not None and experiment.data.is_detection
    kind = detection if detects or spec.task == "detection" else classification
    task, resolved = kind.open_task(experiment, spec, progress)
    with progress.working("checking that the model can be captured"):
        _check_model(experiment, spec.module, task)
    return Setup(
        experiment=resolved,
        module=spec.module,
        model_name=spec.name,
        task=task,
        variants=only or tuple(experiment.variants),
        notes=_notes(experiment, task),
    )


def _check_model(experiment: Experiment, module: torch.nn.Module, task: Task) -> None:
    """Refuse a model that cannot be captured or written, and recipes that it cannot be put on."""
    names: dict[tuple[str, ...] | None, list[str]] = {None: _layers(module, task, None)}
    for name, recipe in experiment.variants.items():
        try:
            api.check_recipe(recipe)
            if recipe.regions not in names:
                names[recipe.regions] = _layers(module, task, recipe.regions)
            check_overrides(recipe, names[recipe.regions])
        except SubbyteError as error:
            raise SubbyteError(f"variants.{name}: {error}") from None


def _layers(module: torch.nn.Module, task: Task, regions: tuple[str, ...] | None) -> list[str]:
    captured = api.prepare(
        module, task.example, Recipe(weights=None, activations=None, regions=regions)
    )
    onnx.arguments(captured, task.written, task.postprocess)
    return [layer.name for layer in captured.layers]


def _notes(experiment: Experiment, task: Task) -> list[str]:
    notes = []
    model, data = experiment.model, task.data
    if (
        model.name not in (None, *models.BUNDLED)
        and model.weights is None
        and model.checkpoint is None
    ):
        notes.append(f"{model.name} has random weights: give model.weights or model.checkpoint")
    if data.overlap:
        notes.append(
            f"{data.overlap} of the {data.calibration.images} calibration images are evaluated too"
        )
    if data.skipped:
        notes.append(f"{len(data.skipped)} broken images were skipped")
    notes.extend(data.notes)
    if machine.has_vnni() is False:
        notes.append(
            "this processor has no VNNI: its 8-bit sums can saturate, so that deployed models "
            "differ from simulated ones (reduce_range: true prevents it)"
        )
    return notes
