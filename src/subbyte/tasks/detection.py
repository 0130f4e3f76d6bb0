"""Detectors in a run: images of any sizes in, boxes, scores and labels out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from subbyte.app.experiment import Experiment
from subbyte.data import DetectionData, open_detection
from subbyte.data.detection.layout import format_of
from subbyte.detectors import label_count, letterbox_for
from subbyte.detectors.common.letterbox import Letterbox
from subbyte.detectors.common.own_code import computed_by
from subbyte.detectors.deployment import detections_of
from subbyte.errors import SubbyteError
from subbyte.graph.capture.export import complaint
from subbyte.models import ModelSpec
from subbyte.placement.simulation import Captured
from subbyte.targets.base import Run, Session
from subbyte.tasks.base import Task
from subbyte.tasks.metrics import coco, voc
from subbyte.tasks.metrics import detection as task
from subbyte.tasks.metrics.changes import changes
from subbyte.tasks.scenes import draw_scenes
from subbyte.utils.progress import Progress

EXAMPLES = 2  # images by which a model is checked and captured
SQNR_IMAGES = 64
DRAWN = 4  # scenes of the picture
Found = dict[str, Any]  # of one image: boxes, scores, labels


@dataclass(frozen=True)
class Detection:
    """The images of a detector; see `measure.task.Task`.

    `module`: the float model; `images`: the first ones of the calibration, on `device`, where the
    simulation runs; `canvas`: how files take images; `postprocess`: files give boxes, and not raw
    outputs; `is_voc`: the metrics of Pascal VOC are told as well.
    """

    module: torch.nn.Module
    data: DetectionData
    images: list[torch.Tensor]
    canvas: Letterbox
    device: str
    postprocess: bool = True
    is_voc: bool = False
    name: str = "detection"
    primary_metric: str = task.PRIMARY_METRIC

    @property
    def example(self) -> tuple[Any, ...]:
        """The first calibration images, as a list."""
        return (self.images,)

    @property
    def written(self) -> tuple[Any, ...]:
        """The same as one tensor."""
        return (self.canvas.images(self.images),)

    @property
    def reshapes(self) -> bool:
        """Images on a padded canvas are resized by the model to another size than without."""
        return self.canvas.fit == "pad"

    def simulated(self, model: torch.nn.Module, *, as_written: bool = False) -> Run:
        """Detections by PyTorch, in each image's own pixels."""

        @torch.no_grad()
        def run(inputs: Sequence[torch.Tensor]) -> list[Found]:
            images = [image.to(self.device) for image in inputs]
            if not as_written:
                return [_arrays(found) for found in model(images)]
            found = [_arrays(found) for found in model(list(self.canvas.images(images)))]
            return [
                self.canvas.back(one, (image.shape[-2], image.shape[-1]))
                for one, image in zip(found, images, strict=True)
            ]

        return run

    def deployed(self, session: Session, captured: Captured) -> Run | None:
        """Detections by a runtime: what its file gives, or made of its file's raw outputs.

        Of a model of one region, of which nobody knows how to make them, it does so itself.
        """
        if self.postprocess:
            return deployed(session, self.canvas)
        made = detections_of(captured, self.written)
        if made is not None:
            return deployed(session, self.canvas, made)
        if len(captured.region_names) > 1:
            return None
        return self.simulated(computed_by(session, captured), as_written=True)

    def outputs(self, parts: Iterable[Any], targets: Sequence[Any]) -> task.Outputs:
        """The detections on all evaluation images."""
        del targets
        found = [one for part in parts for one in part]
        return task.outputs_of(found, [known.image_id for known in self.data.evaluation.objects])

    def scores(self, outputs: task.Outputs) -> tuple[dict[str, Any], list[str]]:
        """COCO's metrics, of Pascal VOC's data VOC's too, and AP of each class."""
        return scores(outputs, self.data, is_voc=self.is_voc)

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """Where nobody knows how to make boxes of a file's raw outputs."""
        known = dict.fromkeys(("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"))
        entry = {"metrics": known, "images": 0, "intervals": {}, "per_class": {}}
        return entry, [
            "AP is not measured in the runtimes, because export.postprocess is false and how "
            f"{type(self.module).__name__} makes boxes of its raw outputs is not known"
        ]

    def changed(
        self, reference: task.Outputs, outputs: task.Outputs, captured: Captured
    ) -> dict[str, Any]:
        """Which objects were lost and gained, and the noise in the raw outputs."""
        return {
            "agreement_with_float": task.agreement(reference, outputs),
            "sqnr_db": self._sqnr_db(captured),
            "objects": changes(reference, outputs, self.data.evaluation.objects),
        }

    def agreement(self, one: task.Outputs, other: task.Outputs) -> float:
        """The share of detections that are matched."""
        return task.agreement(one, other)

    def largest_difference(self, one: task.Outputs, other: task.Outputs) -> float | None:
        """Of the score of a matched detection."""
        pairs = enumerate(task.matches(one, other, task.AGREEMENT_IOU))
        shifts = [np.abs(one.scores[i][a] - other.scores[i][b]) for i, (a, b) in pairs]
        joined = np.concatenate([np.empty(0, np.float32), *shifts])
        return float(joined.max()) if joined.size else None

    def save(self, outputs: task.Outputs, path: Path) -> None:
        """Boxes, scores and labels."""
        outputs.save(path)

    def load(self, path: Path) -> task.Outputs:
        """What `save` wrote."""
        return task.load(path)

    def illustrate(
        self, folder: Path, name: str, reference: task.Outputs, outputs: task.Outputs
    ) -> None:
        """A few scenes as `scenes.png`, at the float model's own operating point."""
        first = replace(self.data.evaluation, limit=min(DRAWN, self.data.evaluation.images))
        images = [image for batch in first for image in batch["inputs"]]
        point = changes(reference, outputs, self.data.evaluation.objects)["threshold"]
        draw_scenes(
            images,
            reference,
            outputs,
            self.data.classes,
            folder / "scenes.png",
            threshold=0.5 if point is None else float(point),
            titles=("float", name),
        )

    def coverage(self) -> Mapping[str, int]:
        """Classes of the model and of the objects on the evaluation images."""
        present = {int(label) for found in self.data.evaluation.objects for label in found.labels}
        return {"model": len(self.data.classes), "evaluated": len(present)}

    def metadata(self) -> dict[str, Any]:
        """How images get the file's size, and what labels from 1 on are called."""
        return {
            "task": self.name,
            "preprocessing": None,
            "images": self.canvas.metadata(),
            "classes": list(self.data.classes),
        }

    @torch.no_grad()
    def _sqnr_db(self, captured: Captured) -> float | None:
        """Energy of the float raw outputs over that of the error, on the first images, in dB.

        `None` without any error, and where the outputs are not of the same shape, as of proposals.
        """
        signal = noise = 0.0
        images = min(SQNR_IMAGES, self.data.evaluation.images)
        for batch in replace(self.data.evaluation, limit=images):
            inputs = [image.to(self.device) for image in batch["inputs"]]
            outputs = _tensors(captured.raw(inputs))
            with captured.in_float():
                exact = _tensors(captured.raw(inputs))
            if [x.shape for x in outputs] != [x.shape for x in exact]:
                return None
            for one, other in zip(exact, outputs, strict=True):
                signal += float(one.double().square().sum())
                noise += float((one.double() - other.double()).square().sum())
        return None if noise == 0 or signal == 0 else float(10 * np.log10(signal / noise))


def open_task(
    experiment: Experiment, spec: ModelSpec, progress: Progress
) -> tuple[Task, Experiment]:
    """The images of an experiment with a detector, and the experiment with what was resolved.

    Raises `SubbyteError` if the images are not as they should be, the model does not make
    detections of them, or has other classes.
    """
    found = open_detection(
        experiment.data,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        progress=progress,
    )
    few = replace(found.calibration, limit=min(EXAMPLES, found.calibration.images))
    images = [image.to(experiment.device) for batch in few for image in batch["inputs"]]
    with progress.working("checking the model's detections"):
        check_detector(spec.module, images)
    data = found.labelled(label_count(spec.module), spec.classes)
    sizes = {known.size for side in (data.calibration, data.evaluation) for known in side.objects}
    canvas = letterbox_for(spec.module, sizes)
    opened = Detection(
        module=spec.module,
        data=replace(data, notes=(*data.notes, *_of_sizes(canvas, sizes))),
        images=images,
        canvas=canvas,
        device=experiment.device,
        postprocess=experiment.export.postprocess,
        is_voc=experiment.data.name is None and format_of(experiment.data) == "voc",
    )
    known = experiment.data.model_dump(exclude_unset=True)
    known["calibration_images"] = data.calibration.images
    return opened, experiment.model_copy(update={"data": type(experiment.data)(**known)})


def scores(
    outputs: task.Outputs, data: DetectionData, *, is_voc: bool
) -> tuple[dict[str, Any], list[str]]:
    """Metrics, images and AP of each class as results have them, and notes."""
    truth = data.evaluation.objects
    found = coco.metrics(outputs, truth, data.classes)
    metrics = found.metrics | (voc.metrics(outputs, truth) if is_voc else {})
    entry = {"metrics": metrics, "images": found.images, "intervals": {}}
    return entry | {"per_class": found.per_class}, list(found.notes)


def deployed(session: Session, canvas: Letterbox, made: Any = list) -> Run:
    """Run a detector's file; `made`: from its outputs to boxes, scores, labels and count."""

    def run(inputs: Sequence[torch.Tensor]) -> list[Found]:
        *rows, counts = made(session.run(canvas.images(inputs).numpy()))
        found = []
        for i, (image, count) in enumerate(zip(inputs, counts.tolist(), strict=True)):
            own = {key: row[i, :count] for key, row in zip(task.KEYS, rows, strict=True)}
            found.append(canvas.back(own, (image.shape[-2], image.shape[-1])))
        return found

    return run


def check_detector(module: torch.nn.Module, images: list[torch.Tensor]) -> None:
    """Raise `SubbyteError` if a model does not make detections of a list of images."""
    try:
        with torch.no_grad():
            output = module(images)
    except SubbyteError:
        raise
    except Exception as error:
        raise SubbyteError(
            f"the model does not run on a list of images [3, H, W]: {complaint(error)}; a detector "
            "takes such a list, with values in [0, 1], so wrap the model in a module that does"
        ) from error
    task.check_detections(output, len(images))


def _of_sizes(canvas: Letterbox, sizes: set[tuple[int, int]]) -> list[str]:
    """What is done where images are of several sizes and files take one."""
    if len(sizes) == 1:
        return []
    how = {
        "stretch": "to which images are stretched, as by the model itself",
        "pad": "to which images are resized as far as they fit, and filled up; the simulation of "
        "the file sees them so too, the others see images as they are",
    }
    height, width = canvas.size
    return [
        f"images are of {len(sizes)} sizes, and files take one, {height} high and {width} wide, "
        f"{how[canvas.fit]}"
    ]


def _arrays(found: Mapping[str, torch.Tensor]) -> Found:
    return {key: found[key].detach().cpu().numpy() for key in task.KEYS}


def _tensors(outputs: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]
