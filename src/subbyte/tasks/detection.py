"""Detectors: images of any sizes in, boxes, scores and labels out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subbyte.data import (
    DetectionData,
    open_detection,
    open_detection_calibration,
    open_detection_evaluation,
    read_image_tensor,
)
from subbyte.data.config import DataConfig
from subbyte.data.detection.dataset import PLAIN
from subbyte.data.detection.layout import format_of
from subbyte.data.selection import simulation_indices
from subbyte.detectors import is_whole, label_count, letterbox_for, try_out
from subbyte.detectors.base import unwritable
from subbyte.detectors.common.own_code import computed_by
from subbyte.detectors.deployment import detections_of
from subbyte.detectors.letterbox import Letterbox
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.models import ModelSpec
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import Run, Session, collected
from subbyte.tasks.base import Asked, Columns, OnnxFile, Task, percent
from subbyte.tasks.detector_notes import size_notes
from subbyte.tasks.detector_runs import (
    check_detector,
    deployed,
    objects_of,
    run_file,
    simulated,
)
from subbyte.tasks.lost_objects import write_objects
from subbyte.tasks.metrics import coco, voc
from subbyte.tasks.metrics import detection as metrics
from subbyte.tasks.metrics.changes import best_f1, changes
from subbyte.tasks.metrics.coco_resampled import paired_ap
from subbyte.tasks.metrics.matching import ranked
from subbyte.tasks.metrics.paired import Paired
from subbyte.tasks.metrics.raw_noise import raw_noise
from subbyte.tasks.scenes import draw_scenes
from subbyte.utils.progress import Progress

NAME = "detection"
EXAMPLES = 2  # images by which a model is checked and captured
SQNR_IMAGES = 64
DRAWN = 4  # scenes of the picture
SHOWN = ("AP", "AP50")  # metrics that the table of a run has


@dataclass(frozen=True)
class Detection:
    """The images of a detector; see `tasks.base.Task`.

    Attributes:
        module: The float model.
        data: The images, labelled.
        images: The first ones of the calibration, on `device`.
        letterbox: How files take images.
        device: Where the simulation runs.
        simulated_images: The numbers of the evaluation images that the simulation takes.
        postprocess: Files give boxes, and not raw outputs.
        is_voc: The metrics of Pascal VOC are reported as well.
        name: The task's.
        primary_metric: The metric that the table shows first.
    """

    module: torch.nn.Module
    data: DetectionData
    images: list[torch.Tensor]
    letterbox: Letterbox
    device: str
    simulated_images: tuple[int, ...]
    postprocess: bool = True
    is_voc: bool = False
    name: str = NAME
    primary_metric: str = metrics.PRIMARY_METRIC

    @property
    def example(self) -> tuple[Any, ...]:
        """The first calibration images, as a list."""
        return (self.images,)

    @property
    def written(self) -> tuple[Any, ...]:
        """The same as one tensor."""
        return (self.letterbox.images(self.images),)

    @property
    def reshapes(self) -> bool:
        """Images that are padded are resized by the model to another size than without."""
        return self.letterbox.fit == "pad" and not self.letterbox.by_model

    def simulated(self, model: torch.nn.Module, *, as_written: bool = False) -> Run:
        """Detections by PyTorch, in each image's own pixels."""
        return simulated(model, self.device, self.letterbox if as_written else None)

    def deployed(self, session: Session, model: Any) -> Run | None:
        """Detections by a runtime: what its file gives, or made of its file's raw outputs.

        Of a model of one region, of which nobody knows how to make them, it does so itself.
        """
        if self.postprocess:
            return deployed(session, self.letterbox)
        made = detections_of(model, self.written)
        if made is not None:
            return deployed(session, self.letterbox, made)
        if len(model.region_names) > 1:
            return None
        return self.simulated(computed_by(session, model), as_written=True)

    def outputs(
        self, parts: Iterable[Any], targets: Sequence[Any], numbers: Sequence[int]
    ) -> metrics.DetectionOutputs:
        """The detections on the evaluation images of these numbers."""
        del targets
        found = [one for part in parts for one in part]
        objects = self.data.evaluation.objects
        return metrics.outputs_of(found, [objects[number].image_id for number in numbers])

    def score(self, outputs: metrics.DetectionOutputs) -> tuple[dict[str, Any], list[str]]:
        """COCO's metrics, of Pascal VOC's data VOC's too, and AP of each class."""
        return scores(outputs, self.data, is_voc=self.is_voc)

    def per_image(self, outputs: metrics.DetectionOutputs) -> dict[str, np.ndarray]:
        """Which detections find an object, as `coco.Matched`."""
        return asdict(coco.matched(outputs, self.data.evaluation.objects, self.data.classes))

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """Where nobody knows how to make boxes of a file's raw outputs."""
        known = dict.fromkeys(("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"))
        entry = {"metrics": known, "images": 0, "intervals": {}, "per_class": {}}
        return entry, [
            "AP is not measured in the runtimes, because export.postprocess is false and how "
            f"{type(self.module).__name__} makes boxes of its raw outputs is not known"
        ]

    def paired(
        self, reference: metrics.DetectionOutputs, outputs: metrics.DetectionOutputs
    ) -> Paired:
        """AP of two outputs for the same images, by the bootstrap."""
        return paired_ap(reference, outputs, self.data.evaluation.objects, self.data.classes)

    def compare(
        self, simulated: metrics.DetectionOutputs, outputs: metrics.DetectionOutputs
    ) -> dict[str, Any]:
        """The share of detections that are matched, and the largest difference of their scores."""
        return {
            "agreement": metrics.agreement(simulated, outputs),
            "max_abs_diff": metrics.largest_difference(simulated, outputs),
        }

    def compare_with_float(
        self,
        reference: metrics.DetectionOutputs,
        outputs: metrics.DetectionOutputs,
        quantized: Simulation,
        float_model: FloatModel,
    ) -> dict[str, Any]:
        """Which objects were lost and gained, and the noise in the raw outputs."""
        evaluation = self.data.evaluation
        few = replace(evaluation, limit=min(SQNR_IMAGES, evaluation.images))
        return {
            "agreement_with_float": metrics.agreement(reference, outputs),
            **raw_noise(quantized, float_model, few, self.device),
            "objects": changes(reference, outputs, self.data.evaluation.objects),
        }

    def save(self, outputs: metrics.DetectionOutputs, path: Path) -> None:
        """Boxes, scores and labels."""
        outputs.save(path)

    def load(self, path: Path) -> metrics.DetectionOutputs:
        """What `save` wrote."""
        return metrics.load(path)

    def illustrate(
        self,
        folder: Path,
        name: str,
        reference: metrics.DetectionOutputs,
        outputs: metrics.DetectionOutputs,
    ) -> None:
        """A few scenes as `scenes.png`, at the float model's own operating point.

        And which objects were lost and gained there: `objects.json`, and `gallery.json` with the
        images on which most were.
        """
        first = self.data.evaluation.take(self.simulated_images[:DRAWN])
        images = [image for batch in first for image in batch["inputs"]]
        found = best_f1(ranked(reference, self.data.evaluation.objects))
        point = None if found is None else found["threshold"]
        draw_scenes(
            images,
            reference,
            outputs,
            self.data.classes,
            folder / "scenes.png",
            threshold=0.5 if point is None else point,
            titles=("float", name),
        )
        if point is not None:
            write_objects(folder, self.data, self.simulated_images, (reference, outputs), point)

    def coverage(self) -> Mapping[str, int]:
        """Classes of the model and of the objects on the evaluation images."""
        present = {int(label) for found in self.data.evaluation.objects for label in found.labels}
        return {"model": len(self.data.classes), "evaluated": len(present)}

    def metadata(self) -> dict[str, Any]:
        """How images get the file's size, and what labels from 1 on are called."""
        return {
            "task": self.name,
            "preprocessing": None,
            "images": self.letterbox.metadata(),
            "classes": list(self.data.classes),
        }


def claims(data: DataConfig) -> bool:
    """Whether `data` has a key that only detectors' data has."""
    return data.is_detection


def open_task(asked: Asked, spec: ModelSpec, progress: Progress) -> tuple[Task, DataConfig]:
    """The images for a detector, and the data with what was resolved of it.

    Raises:
        SubbyteError: The images are not as they should be, the model does not make detections of
            them, or it has other classes.
    """
    if asked.postprocess and not is_whole(spec.module):
        _refuse_whole(asked, spec)
    found = open_detection(
        asked.data, seed=asked.seed, batch_size=asked.batch_size, progress=progress
    )
    images = _examples(found.calibration, asked.device)
    with progress.working("checking the model's detections"):
        check_detector(spec.module, images)
        try_out(spec.module, images)
    data = found.labelled(label_count(spec.module), spec.classes)
    sizes = {known.size for side in (data.calibration, data.evaluation) for known in side.objects}
    letterbox = letterbox_for(spec.module, sizes)
    opened = Detection(
        module=spec.module,
        data=replace(data, notes=(*data.notes, *size_notes(spec.module, letterbox, sizes))),
        images=images,
        letterbox=letterbox,
        device=asked.device,
        simulated_images=simulation_indices(data.evaluation.images, asked.simulation_images),
        postprocess=asked.postprocess,
        is_voc=asked.data.name is None and format_of(asked.data) == "voc",
    )
    known = asked.data.model_dump(exclude_unset=True)
    known["calibration_images"] = data.calibration.images
    return opened, DataConfig(**known)


def calibration(
    source: str, spec: ModelSpec, asked: Mapping[str, Any], device: str, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """Calibration images alone, and how a file takes images; see `tasks.base.TaskFile`."""
    chosen = dict(asked)
    if chosen.pop("preprocessing", None) is not None:
        raise SubbyteError(
            "preprocessing has no meaning for detectors, which prepare images by themselves; leave "
            "it out"
        )
    batches = open_detection_calibration(source, **chosen, progress=progress)
    images = _examples(batches, device)
    check_detector(spec.module, images)
    try_out(spec.module, images)
    letterbox = letterbox_for(spec.module, {found.size for found in batches.objects})
    return batches, {"preprocessing": None, "images": letterbox.metadata()}


def evaluate(
    file: OnnxFile, source: str, classes: Path | None, batch_size: int, progress: Progress
) -> dict[str, Any]:
    """COCO's metrics of a file, and of VOC's data VOC's; see `tasks.base.TaskFile`."""
    run = run_file(file)
    found, is_voc = open_detection_evaluation(
        source, classes=classes, batch_size=batch_size, progress=progress
    )
    names = file.metadata.get("classes")
    data = found.labelled(None if names is None else len(names) + 1, names)
    parts, _ = collected({NAME: run}, data.evaluation, progress, "evaluating")
    ids = [known.image_id for known in data.evaluation.objects]
    outputs = metrics.outputs_of([one for part in parts[NAME] for one in part], ids)
    entry, notes = scores(outputs, data, is_voc=is_voc)
    return {**entry, "notes": [*data.notes, *notes]}


def predict(file: OnnxFile, images: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """The objects on each image, those of the highest scores."""
    plain = [read_image_tensor(image, PLAIN) for image in images]
    run, classes = run_file(file), file.metadata.get("classes")
    return [
        {"image": str(image), "objects": objects_of(run(list(tensor))[0], classes, top)}
        for image, tensor in zip(images, plain, strict=True)
    ]


def scores(
    outputs: metrics.DetectionOutputs, data: DetectionData, *, is_voc: bool
) -> tuple[dict[str, Any], list[str]]:
    """Metrics, images and AP of each class as results have them, and notes.

    Args:
        outputs: The detections.
        data: What is on the images.
        is_voc: Whether the metrics of Pascal VOC are reported as well.
    """
    truth = data.evaluation.objects
    found = coco.metrics(outputs, truth, data.classes)
    metrics = found.metrics | (voc.metrics(outputs, truth) if is_voc else {})
    entry = {"metrics": metrics, "images": found.images, "intervals": {}}
    return entry | {"per_class": found.per_class}, list(found.notes)


def _lost(entry: Mapping[str, Any]) -> str:
    """Shares of the objects that quantization lost and gained."""
    found = entry.get("objects") or {}
    if found.get("lost") is None:
        return "–"
    return f"{percent(found['lost'], 1)}/{percent(found['gained'], 1)}"


def _cells(entry: Mapping[str, Any], *, deployed: bool = False) -> list[str]:
    """AP, agreement, and, of the simulation, the objects lost and gained."""
    return [
        *(percent(entry["metrics"][metric]) for metric in SHOWN),
        percent(entry["agreement"] if deployed else entry.get("agreement_with_float")),
        "" if deployed else _lost(entry),
    ]


COLUMNS = Columns(
    names=(*(f"{metric} %" for metric in SHOWN), "agree %", "lost/gained %"),
    cells=_cells,
    caption=(
        "agree: detections matched with float's (simulation), with the simulation's "
        "(runtimes), of the same class and at IoU 0.9",
        "SQNR dB: of the raw output with the most noise",
        "lost/gained: detections at the score where float's F1 is best, as shares of float's",
    ),
    raw_latency=True,
)


def _refuse_whole(asked: Asked, spec: ModelSpec) -> None:
    """Refuse a model of which no file goes to boxes, or what is no detector on the first image.

    Raises:
        SubbyteError: Always.
    """
    one = {"calibration_images": 1, "evaluation_images": 1, "skip_broken": False}
    found = open_detection(asked.data.model_copy(update=one), seed=asked.seed, batch_size=1)
    check_detector(spec.module, _examples(found.calibration, asked.device))
    raise unwritable(spec.module)


def _examples(batches: Any, device: str) -> list[torch.Tensor]:
    """The first images."""
    few = replace(batches, limit=min(EXAMPLES, batches.images))
    return [image.to(device) for batch in few for image in batch["inputs"]]
