"""Classifiers: labelled images in, logits out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subbyte.data import Data, open_calibration, open_data, open_evaluation, read_image_tensor
from subbyte.data.config import DataConfig
from subbyte.data.preprocessing import Preprocessing
from subbyte.data.selection import simulation_indices
from subbyte.errors import SubbyteError
from subbyte.graph.capture.export import mismatch
from subbyte.graph.capture.place import complaint
from subbyte.graph.float_model import FloatModel, Regional
from subbyte.methods.common.label_loss import check_logits
from subbyte.models import ModelSpec
from subbyte.placement.simulation import Simulation
from subbyte.targets import base as targets_
from subbyte.tasks.base import Asked, Columns, OnnxFile, Task, percent
from subbyte.tasks.gallery import PICTURES, Shown, write_gallery
from subbyte.tasks.metrics import classification as metrics
from subbyte.tasks.metrics.paired import Paired, paired_shares
from subbyte.utils.progress import Progress

NAME = "classification"


@dataclass(frozen=True)
class Classification:
    """The images of a classifier; see `tasks.base.Task`.

    Attributes:
        data: The images, labelled.
        classes: What the outputs stand for.
        images: The first ones of the calibration, [N, C, H, W], on `device`.
        device: Where the simulation runs.
        simulated_images: The numbers of the evaluation images that the simulation takes.
        name: The task's.
        primary_metric: The metric that the table shows first.
        postprocess: Nothing follows on logits.
        reshapes: Files take images as the model does.
    """

    data: Data
    classes: tuple[str, ...]
    images: torch.Tensor
    device: str
    simulated_images: tuple[int, ...]
    name: str = NAME
    primary_metric: str = metrics.PRIMARY_METRIC
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

    def simulated(self, model: torch.nn.Module, *, as_written: bool = False) -> targets_.Run:
        """Logits by PyTorch."""
        del as_written
        return targets_.simulated(model, self.device)

    def deployed(self, session: targets_.Session, model: Regional) -> targets_.Run:
        """Logits by a runtime."""
        del model
        return targets_.deployed(session)

    def outputs(
        self, parts: Iterable[Any], targets: Sequence[Any], numbers: Sequence[int]
    ) -> metrics.Logits:
        """Logits and labels."""
        del numbers
        return joined(parts, targets)

    def score(self, outputs: metrics.Logits) -> tuple[dict[str, Any], list[str]]:
        """top-1 and top-5, with an interval."""
        return scores(outputs), []

    def per_image(self, outputs: metrics.Logits) -> dict[str, np.ndarray]:
        """Metric → whether each image is right; its label, and the answer with its probability."""
        answers, probabilities = metrics.answers(outputs)
        said = {"labels": outputs.labels.astype(np.int32), "answers": answers}
        return {**metrics.right(outputs), **said, "probabilities": probabilities}

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """Every file of a classifier gives logits."""
        raise AssertionError("a classifier's outputs are its file's")

    def paired(self, reference: metrics.Logits, outputs: metrics.Logits) -> Paired:
        """top-1 of two outputs for the same images."""
        return paired_shares(*(metrics.right(its)["top1"] for its in (reference, outputs)))

    def compare(self, simulated: metrics.Logits, outputs: metrics.Logits) -> dict[str, Any]:
        """The share of images with the same top-1, and the largest difference of a logit."""
        return {
            "agreement": metrics.agreement(simulated, outputs),
            "max_abs_diff": metrics.largest_difference(simulated, outputs),
        }

    def compare_with_float(
        self,
        reference: metrics.Logits,
        outputs: metrics.Logits,
        quantized: Simulation,
        float_model: FloatModel,
    ) -> dict[str, Any]:
        """Agreement of the top-1 with float, and the noise in the logits."""
        del quantized, float_model
        return {
            "agreement_with_float": metrics.agreement(reference, outputs),
            "sqnr_db": metrics.sqnr_db(reference, outputs),
        }

    def save(self, outputs: metrics.Logits, path: Path) -> None:
        """Logits and labels, and which evaluation images they are of."""
        numbers = np.array(self.simulated_images, np.int64)
        np.savez(path, logits=outputs.logits, labels=outputs.labels, images=numbers)

    def load(self, path: Path) -> metrics.Logits:
        """What `save` wrote."""
        with np.load(path) as arrays:
            return metrics.Logits(arrays["logits"], arrays["labels"])

    def illustrate(
        self, folder: Path, name: str, reference: metrics.Logits, outputs: metrics.Logits
    ) -> None:
        """The images of which the two say other things, the surest first, as `gallery.json`."""
        del name
        sides = {"float": metrics.answers(reference), "quantized": metrics.answers(outputs)}
        (first, surely), (second, as_surely) = sides.values()
        differ = np.flatnonzero(first != second)
        order = np.argsort(-np.minimum(surely, as_surely)[differ], kind="stable")
        shown = []
        for i in differ[order][:PICTURES].tolist():
            said: dict[str, Any] = {"label": int(reference.labels[i])}
            for key, (answers, probabilities) in sides.items():
                said[key] = [int(answers[i]), round(float(probabilities[i]), 4)]
            shown.append(Shown(self.simulated_images[i], said))
        images = {"images": outputs.images, "found": len(differ)}
        write_gallery(folder, "answers", self.data.evaluation.dataset, shown, **images)

    def coverage(self) -> Mapping[str, int]:
        """Classes of the model and of the evaluation images."""
        return asdict(self.data.coverage)

    def metadata(self) -> dict[str, Any]:
        """How an image is prepared, and what the classes are called."""
        return {
            "task": self.name,
            "preprocessing": self.data.preprocessing.as_classifiers(),
            "classes": list(self.classes),
        }


def claims(data: DataConfig) -> bool:
    """No key is a classifier's alone."""
    del data
    return False


def open_task(asked: Asked, spec: ModelSpec, progress: Progress) -> tuple[Task, DataConfig]:
    """The images for a classifier, and the data with what was resolved of it.

    Args:
        asked: The images, and how they are run.
        spec: The model.
        progress: Shows how far it is.

    Raises:
        SubbyteError: The images are not as they should be, or the model does not make logits of
            them.
    """
    if not asked.postprocess:
        raise SubbyteError(
            "export.postprocess is false, which has a meaning for detectors alone: leave it out"
        )
    found = open_data(
        asked.data,
        spec.preprocessing,
        seed=asked.seed,
        batch_size=asked.batch_size,
        progress=progress,
    )
    images = next(iter(found.calibration))["inputs"].to(asked.device)
    with progress.working("checking the model's outputs"):
        outputs = _outputs(spec.module, images, spec.preprocessing)
    data = found.labelled(outputs, spec.classes)
    chosen = simulation_indices(data.evaluation.images, asked.simulation_images)
    opened = Classification(data, spec.classes or data.classes, images, asked.device, chosen)
    return opened, _resolved(asked.data, data)


def calibration(
    source: str, spec: ModelSpec, asked: Mapping[str, Any], device: str, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """Calibration images alone, and the preprocessing for a file; see `tasks.base.TaskFile`."""
    del device
    chosen = dict(asked)
    given = chosen.pop("preprocessing", None)
    batches = open_calibration(source, spec.preprocessing, **chosen, given=given, progress=progress)
    prepared = batches.dataset.preprocessing
    return batches, {"preprocessing": prepared.as_classifiers()}


def evaluate(
    file: OnnxFile, source: str, classes: Path | None, batch_size: int, progress: Progress
) -> dict[str, Any]:
    """top-1 and top-5 of a file on labelled images; see `tasks.base.TaskFile`."""
    preprocessing = Preprocessing(**file.metadata["preprocessing"])
    run = targets_.deployed(file.load())
    found = open_evaluation(
        source, preprocessing, classes=classes, batch_size=batch_size, progress=progress
    )
    first = run(next(iter(found.batches))["inputs"])
    images = found.labelled(first.shape[1], file.metadata.get("classes"))
    parts, labels = targets_.collected({NAME: run}, images.batches, progress, "evaluating")
    coverage = asdict(images.coverage)
    notes = list(images.batches.notes)
    return {**scores(joined(parts[NAME], labels)), "classes": coverage, "notes": notes}


def predict(file: OnnxFile, images: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """The likeliest classes of each image, with their probabilities."""
    preprocessing = Preprocessing(**file.metadata["preprocessing"])
    classes = file.metadata.get("classes")
    tensors = [read_image_tensor(image, preprocessing) for image in images]
    session = file.load()
    predictions = []
    for image, tensor in zip(images, tensors, strict=True):
        logits = session.run(tensor.numpy())[0][0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        order = np.argsort(-shares, kind="stable")[:top]
        guesses = [
            {"class": classes[i] if classes else str(i), "probability": float(shares[i])}
            for i in order
        ]
        predictions.append({"image": str(image), "classes": guesses})
    return predictions


def joined(parts: Iterable[np.ndarray], targets: Sequence[Any]) -> metrics.Logits:
    """The logits and labels of batches, in one."""
    labels = [np.zeros(0, np.int64), *(target.numpy() for target in targets)]
    return metrics.Logits(np.concatenate(list(parts)), np.concatenate(labels))


def scores(outputs: metrics.Logits) -> dict[str, Any]:
    """Metrics, images and intervals as results have them."""
    found = metrics.metrics(outputs)
    interval = metrics.interval(found[metrics.PRIMARY_METRIC], outputs.images)
    return {
        "metrics": found,
        "images": outputs.images,
        "intervals": {metrics.PRIMARY_METRIC: list(interval)},
    }


def _cells(entry: Mapping[str, Any], *, deployed: bool = False) -> list[str]:
    """top-1, its interval, and the share of images with the same top-1."""
    low, high = entry["intervals"][metrics.PRIMARY_METRIC]
    return [
        percent(entry["metrics"][metrics.PRIMARY_METRIC]),
        f"{percent(low, 1)}–{percent(high, 1)}",
        percent(entry["agreement"] if deployed else entry.get("agreement_with_float")),
    ]


COLUMNS = Columns(
    names=(f"{metrics.PRIMARY_METRIC} %", "95 % interval", "agree %"),
    cells=_cells,
    caption=("agree: same top-1 as float (simulation), as the simulation (runtimes)",),
)


def _outputs(module: torch.nn.Module, example: torch.Tensor, own: Preprocessing | None) -> int:
    """How many classes the model distinguishes, if it takes images and returns logits.

    Args:
        module: The model.
        example: Images, (N, C, H, W).
        own: The preprocessing that belongs to the model, if any.
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


def _resolved(config: DataConfig, data: Data) -> DataConfig:
    """The data with the number of calibration images and the preprocessing in use.

    What is assumed is not written down, so that a rerun assumes it and warns again.
    """
    known = config.model_dump(exclude_unset=True)
    known["calibration_images"] = data.calibration.images
    if config.name is None and not data.assumed:
        known["preprocessing"] = data.preprocessing.as_classifiers()
    return DataConfig(**known)
