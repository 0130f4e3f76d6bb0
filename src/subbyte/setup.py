"""Everything a run needs, opened and checked before its folder is made."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from subbyte import api, models
from subbyte.data import Data, image_roots, open_data
from subbyte.errors import SubbyteError, unknown
from subbyte.experiment import Experiment
from subbyte.graph.annotate import check_overrides
from subbyte.graph.capture import complaint, mismatch
from subbyte.preprocessing import Preprocessing
from subbyte.progress import Progress
from subbyte.recipe import Recipe
from subbyte.runtime import machine, verify
from subbyte.tasks.classification import check_logits


@dataclass(frozen=True)
class Setup:
    """An experiment whose model and data are open.

    `example`: the first calibration images, on the experiment's device. `variants`: the names to
    run. `notes`: what the reader of the numbers must know.
    """

    experiment: Experiment
    module: torch.nn.Module
    model_name: str
    classes: tuple[str, ...]
    data: Data
    example: torch.Tensor
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
    if experiment.data.name is None:
        image_roots(experiment.data)  # before weights are downloaded in vain
    with progress.working("loading the model"):
        spec = models.load(experiment.model)
    found = open_data(
        experiment.data,
        spec.preprocessing,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        progress=progress,
    )
    module = spec.module.to(experiment.device)
    example = next(iter(found.calibration))["inputs"].to(experiment.device)
    with progress.working("checking that the model can be captured"):
        outputs = _outputs(module, example, spec.preprocessing)
        _check_model(experiment, module, example)
    data = found.labelled(outputs, spec.classes)
    return Setup(
        experiment=_resolved(experiment, data),
        module=module,
        model_name=spec.name,
        classes=spec.classes or data.classes,
        data=data,
        example=example,
        variants=only or tuple(experiment.variants),
        notes=_notes(experiment, data),
    )


def _outputs(module: torch.nn.Module, example: torch.Tensor, own: Preprocessing | None) -> int:
    """How many classes the model tells apart, if it takes images and returns logits.

    `own`: the preprocessing that belongs to the model, if any.
    """
    reason = mismatch(module, (example,))
    if reason is not None:
        raise SubbyteError(
            f"{reason}: an experiment gives images alone, so wrap the model in a module that takes "
            "them and makes the rest itself, or use subbyte.quantize, which takes tuples"
        )
    try:
        with torch.no_grad():
            output = module(example)
    except Exception as error:
        _, channels, height, width = example.shape
        crop = None if own is None else own.crop
        tall, wide = crop if isinstance(crop, tuple) else (crop, crop)
        known = crop is not None and (tall, wide) != (height, width)
        right = f"the {tall}x{wide} of the model's own" if known else "a crop that the model takes"
        raise SubbyteError(
            f"the model does not run on images of {height}x{width} with {channels} "
            f"channel{'s' * (channels > 1)}: {complaint(error)}; give data.preprocessing {right}"
        ) from error
    return check_logits(output, len(example)).shape[1]


def _check_model(experiment: Experiment, module: torch.nn.Module, example: torch.Tensor) -> None:
    """Refuse a model that cannot be captured, and recipes that it cannot be put on."""
    names: dict[tuple[str, ...] | None, list[str]] = {None: _layers(module, example, None)}
    for name, recipe in experiment.variants.items():
        try:
            api.check_recipe(recipe)
            if recipe.regions not in names:
                names[recipe.regions] = _layers(module, example, recipe.regions)
            check_overrides(recipe, names[recipe.regions])
        except SubbyteError as error:
            raise SubbyteError(f"variants.{name}: {error}") from None


def _layers(
    module: torch.nn.Module, example: torch.Tensor, regions: tuple[str, ...] | None
) -> list[str]:
    recipe = Recipe(weights=None, activations=None, regions=regions)
    return [layer.name for layer in api.prepare(module, (example,), recipe).layers]


def _resolved(experiment: Experiment, data: Data) -> Experiment:
    """The experiment with the number of calibration images and the preprocessing in use.

    What is assumed is not written down, so that a rerun assumes it and says so again.
    """
    known = experiment.data.model_dump(exclude_unset=True)
    known["calibration_images"] = data.calibration.images
    if experiment.data.name is None and not data.assumed:
        known["preprocessing"] = data.preprocessing.model_dump()
    return experiment.model_copy(update={"data": type(experiment.data)(**known)})


def _notes(experiment: Experiment, data: Data) -> list[str]:
    notes = []
    model = experiment.model
    if model.name not in (None, "digits") and model.weights is None and model.checkpoint is None:
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
