"""Classifiers in a run: labelled images in, logits out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subbyte.app.experiment import Experiment
from subbyte.data import Data, open_data
from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError
from subbyte.graph.capture.export import complaint, mismatch
from subbyte.models import ModelSpec
from subbyte.placement.simulation import Captured
from subbyte.targets import base as verify
from subbyte.tasks.base import Task
from subbyte.tasks.metrics import classification as task
from subbyte.utils.progress import Progress


@dataclass(frozen=True)
class Classification:
    """The images of a classifier; see `measure.task.Task`.

    `classes`: what the outputs stand for; `images`: the first ones of the calibration, [N, C, H,
    W], on `device`, where the simulation runs.
    """

    data: Data
    classes: tuple[str, ...]
    images: torch.Tensor
    device: str
    name: str = "classification"
    primary_metric: str = task.PRIMARY_METRIC
    postprocess: bool = True
    reshapes: bool = False

    @property
    def example(self) -> tuple[Any, ...]:
        """The first calibration images."""
        return (self.images,)

    @property
    def written(self) -> tuple[Any, ...]:
        """A file takes what the model takes."""
        return (self.images,)

    def simulated(self, model: torch.nn.Module, *, as_written: bool = False) -> verify.Run:
        """Logits by PyTorch."""
        del as_written
        return verify.simulated(model, self.device)

    def deployed(self, session: verify.Session, captured: Captured) -> verify.Run:
        """Logits by a runtime."""
        del captured
        return verify.deployed(session)

    def outputs(self, parts: Iterable[Any], targets: Sequence[Any]) -> task.Outputs:
        """Logits and labels of all images."""
        return joined(parts, targets)

    def scores(self, outputs: task.Outputs) -> tuple[dict[str, Any], list[str]]:
        """top-1 and top-5, with an interval."""
        return scores(outputs), []

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """Every file of a classifier gives logits."""
        raise AssertionError("a classifier's outputs are its file's")

    def changed(
        self, reference: task.Outputs, outputs: task.Outputs, captured: Captured
    ) -> dict[str, Any]:
        """Agreement of the top-1 with float, and the noise in the logits."""
        del captured
        return {
            "agreement_with_float": task.agreement(reference, outputs),
            "sqnr_db": task.sqnr_db(reference, outputs),
        }

    def agreement(self, one: task.Outputs, other: task.Outputs) -> float:
        """The share of images with the same top-1."""
        return task.agreement(one, other)

    def largest_difference(self, one: task.Outputs, other: task.Outputs) -> float:
        """Of a logit."""
        return task.largest_difference(one, other)

    def save(self, outputs: task.Outputs, path: Path) -> None:
        """Logits and labels."""
        np.savez(path, logits=outputs.logits, labels=outputs.labels)

    def load(self, path: Path) -> task.Outputs:
        """What `save` wrote."""
        with np.load(path) as arrays:
            return task.Outputs(arrays["logits"], arrays["labels"])

    def illustrate(
        self, folder: Path, name: str, reference: task.Outputs, outputs: task.Outputs
    ) -> None:
        """Logits are no pictures."""

    def coverage(self) -> Mapping[str, int]:
        """Classes of the model and of the evaluation images."""
        return asdict(self.data.coverage)

    def metadata(self) -> dict[str, Any]:
        """How an image is prepared, and what the classes are called."""
        return {
            "task": self.name,
            "preprocessing": self.data.preprocessing.model_dump(mode="json"),
            "classes": list(self.classes),
        }


def open_task(
    experiment: Experiment, spec: ModelSpec, progress: Progress
) -> tuple[Task, Experiment]:
    """The images of an experiment with a classifier, and the experiment with what was resolved.

    Raises `SubbyteError` if the images are not as they should be, or the model does not make
    logits of them.
    """
    if not experiment.export.postprocess:
        raise SubbyteError(
            "export.postprocess is false, which has a meaning for detectors alone: leave it out"
        )
    found = open_data(
        experiment.data,
        spec.preprocessing,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        progress=progress,
    )
    images = next(iter(found.calibration))["inputs"].to(experiment.device)
    with progress.working("checking the model's outputs"):
        outputs = _outputs(spec.module, images, spec.preprocessing)
    data = found.labelled(outputs, spec.classes)
    opened = Classification(data, spec.classes or data.classes, images, experiment.device)
    return opened, _resolved(experiment, data)


def joined(parts: Iterable[np.ndarray], targets: Sequence[Any]) -> task.Outputs:
    """The logits and labels of batches, in one."""
    labels = [np.zeros(0, np.int64), *(target.numpy() for target in targets)]
    return task.Outputs(np.concatenate(list(parts)), np.concatenate(labels))


def scores(outputs: task.Outputs) -> dict[str, Any]:
    """Metrics, images and intervals as results have them."""
    metrics = task.metrics(outputs)
    interval = task.interval(metrics[task.PRIMARY_METRIC], outputs.images)
    return {
        "metrics": metrics,
        "images": outputs.images,
        "intervals": {task.PRIMARY_METRIC: list(interval)},
    }


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
    return task.check_logits(output, len(example)).shape[1]


def _resolved(experiment: Experiment, data: Data) -> Experiment:
    """The experiment with the number of calibration images and the preprocessing in use.

    What is assumed is not written down, so that a rerun assumes it and says so again.
    """
    known = experiment.data.model_dump(exclude_unset=True)
    known["calibration_images"] = data.calibration.images
    if experiment.data.name is None and not data.assumed:
        known["preprocessing"] = data.preprocessing.model_dump()
    return experiment.model_copy(update={"data": type(experiment.data)(**known)})
