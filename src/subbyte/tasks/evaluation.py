"""`subbyte.evaluate`: metrics of a model or a file on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from subbyte.data.batches import Batch, check_calibration, read_batch, to_device
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors import try_out
from subbyte.detectors.raw_outputs import raw_detector
from subbyte.errors import SubbyteError, unknown
from subbyte.graph.float_model import device_of
from subbyte.methods.common.label_loss import check_logits
from subbyte.targets import base as targets
from subbyte.targets import files as target_files
from subbyte.targets import names
from subbyte.targets.onnx.own_batch import load_for_any_batch
from subbyte.tasks.base import OnnxFile, arrays, task_file
from subbyte.tasks.detector_runs import check_detector, run_file, simulated
from subbyte.tasks.labelled import (
    CLASSIFICATION,
    Scores,
    class_scores,
    kind_of,
    object_scores,
    objects_in,
)
from subbyte.tasks.metrics import detection as detections
from subbyte.tasks.metrics.classification import Logits
from subbyte.utils import cores, machine
from subbyte.utils.progress import Progress, Silent

DEFAULT_RUNTIME = "onnxruntime"
BATCH_SIZE = 64


@dataclass(frozen=True)
class Evaluation(Scores):
    """Metrics of a model on labelled images.

    Attributes:
        task: "classification" or "detection".
        runtime: Where it ran; `None`: in PyTorch.
    """

    task: str = CLASSIFICATION
    runtime: str | None = None


def evaluate(
    model: nn.Module | str | Path,
    data: Any,
    *,
    runtime: str | None = None,
    outputs: Outputs | None = None,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model or an exported file on labelled images.

    Classifiers get top-1 and top-5, detectors COCO's metrics.

    Args:
        model: A module, quantized or not, which is left as it is; or the path of a file.
        data: Labelled batches (`{"inputs": …, "targets": …}` or pairs) as the model takes them; or,
            for a file that says how to prepare images, a folder or the name of bundled images, as
            the command `evaluate` takes them.
        runtime: Where a file runs, "onnxruntime" or "openvino"; `None`: what the file is for, or
            ONNX Runtime.
        outputs: What a detector's raw network gives, as of `quantize`; of modules alone.
        preprocessing: With `outputs`: how images become the network's input.
        progress: Shows how far it is.

    Raises:
        SubbyteError: There are no labels, they do not fit what the model gives, the file or the
            images cannot be read, or there is no such runtime.
    """
    progress = progress or Silent()
    if isinstance(model, nn.Module):
        if runtime is not None:
            raise SubbyteError(
                f"runtime is '{runtime}', and a module runs in PyTorch: give the path of its file"
            )
        if isinstance(data, str | Path):
            raise SubbyteError(
                f"data is {data}, and how images become the module's input is not known: give "
                "labelled batches, or the path of a file that says it"
            )
        if outputs is not None:
            model = raw_detector(model, outputs, preprocessing)
        elif preprocessing is not None:
            raise SubbyteError("preprocessing is that of a raw network: give its outputs as well")
        return _of_module(model, data, progress)
    if not isinstance(model, str | Path):
        raise SubbyteError(
            f"the model is a {type(model).__name__}: give a torch.nn.Module, or the path of an "
            ".onnx file"
        )
    if outputs is not None or preprocessing is not None:
        raise SubbyteError(
            "outputs and preprocessing are said of a module: a file has them in it already"
        )
    runtime = target_files.runtime_of(Path(model), runtime, DEFAULT_RUNTIME)
    return _of_file(Path(model), data, runtime, progress)


def check_known(runtime: str) -> None:
    """Refuse a runtime that does not exist."""
    if runtime not in names():
        raise unknown("runtime", runtime, names())


def _of_module(model: nn.Module, data: Any, progress: Progress) -> Evaluation:
    device = device_of(model)
    batches = check_batches(data)
    with evaluating(model):
        first = read_batch(next(iter(batches)))
        if _kind(first) == CLASSIFICATION:
            return _classified(
                lambda args: model(*to_device(args, device)), batches, None, progress
            )
        images = [image.to(device) for image in first.args[0]]
        try_out(model, images)
        check_detector(model, images)
        return _detected(simulated(model, device), batches, None, None, progress)


def _of_file(path: Path, data: Any, runtime: str, progress: Progress) -> Evaluation:
    metadata = target_files.read_metadata(path)
    file = OnnxFile(path, metadata, lambda: load_for_any_batch(runtime, path, cores.usable()))
    if isinstance(data, str | Path):
        return _in_folder(file, str(data), runtime, progress)
    batches = check_batches(data)
    if _kind(read_batch(next(iter(batches)))) == CLASSIFICATION:
        session = file.load()
        return _classified(
            lambda args: torch.from_numpy(session.run(*arrays(args))[0]),
            batches,
            runtime,
            progress,
        )
    if "images" not in metadata:
        raise SubbyteError(
            f"{path} does not say how it takes images: name a detector's file that subbyte run or "
            "export has written with its way to boxes"
        )
    return _detected(run_file(file), batches, metadata.get("classes"), runtime, progress)


def _in_folder(file: OnnxFile, source: str, runtime: str, progress: Progress) -> Evaluation:
    """As the command does it."""
    metadata = file.metadata
    if metadata.get("preprocessing") is None and "images" not in metadata:
        raise SubbyteError(
            f"{file.path} does not say how to prepare images: give labelled batches, or export it "
            "with preprocessing"
        )
    name = metadata.get("task", CLASSIFICATION)
    loaded = OnnxFile(
        file.path,
        metadata,
        lambda: load_for_any_batch(runtime, file.path, machine.threads()),
    )
    found = task_file(name).evaluate(loaded, source, None, BATCH_SIZE, progress)
    return Evaluation(
        metrics=found["metrics"],
        images=found["images"],
        intervals={key: (low, high) for key, (low, high) in found["intervals"].items()},
        per_class=found.get("per_class", {}),
        notes=tuple(found["notes"]),
        task=name,
        runtime=runtime,
    )


def check_batches(data: Any, name: str = "data") -> Any:
    """`data` if it is an iterable of batches that can be walked again, else `SubbyteError`.

    Args:
        data: What was given.
        name: Of the argument.
    """
    try:
        return check_calibration(data)
    except SubbyteError as error:
        raise SubbyteError(str(error).replace("calibration is", f"{name} is", 1)) from None


def _kind(batch: Batch) -> str:
    kind = kind_of(batch.targets)
    if kind is None and (labels := _strange_labels(batch)) is not None:
        helps = "labels.argmax(1)" if labels.dim() == 2 else "labels.long()"
        raise SubbyteError(
            "labels are whole numbers, that of the class for each image, and these are a tensor "
            f"{list(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}: give {helps}"
        )
    if kind is None:
        raise SubbyteError(
            'a batch has no labels: give pairs (inputs, targets) or {"inputs": …, "targets": …} '
            "with a number of the class for each image, or a dictionary of boxes and labels"
        )
    return kind


def _strange_labels(batch: Batch) -> torch.Tensor | None:
    """What stands in the place of labels and is none: numbers with fractions, or one-hot ones."""
    targets: Any = batch.targets
    if targets is None and len(batch.args) == 2:  # a pair, taken for two inputs
        targets = batch.args[1]
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    fits = labels.dim() in (1, 2) and len(labels) == batch.size
    return labels if fits else None


@torch.no_grad()
def _classified(
    run: Callable[[tuple[Any, ...]], Any],
    batches: Any,
    runtime: str | None,
    progress: Progress,
) -> Evaluation:
    """Logits of all batches, and their metrics.

    Args:
        run: From a batch's arguments to what the model gives.
        batches: Labelled ones.
        runtime: Where it runs.
        progress: Shows how far it is.
    """
    logits, labels = [], []
    for raw in progress.track(batches, "evaluating"):
        batch = read_batch(raw)
        if _kind(batch) != CLASSIFICATION:
            raise SubbyteError("some batches have numbers of classes and others objects: give one")
        assert isinstance(batch.targets, torch.Tensor)
        logits.append(check_logits(run(batch.args), batch.size).float().cpu().numpy())
        labels.append(batch.targets.cpu().numpy().astype(np.int64))
    scores = class_scores(Logits(np.concatenate(logits), np.concatenate(labels)))
    return Evaluation(**_fields(scores), task=CLASSIFICATION, runtime=runtime)


def _detected(
    run: targets.Run,
    batches: Any,
    classes: list[str] | None,
    runtime: str | None,
    progress: Progress,
) -> Evaluation:
    """Detections on the images of all batches, and their metrics."""
    found: list[Any] = []
    truth: list[Any] = []
    for raw in progress.track(batches, "evaluating"):
        batch = read_batch(raw)
        if _kind(batch) == CLASSIFICATION:
            raise SubbyteError("some batches have objects and others numbers of classes: give one")
        truth += objects_in(batch, len(truth))
        found += run(list(batch.args[0]))
    made = detections.outputs_of(found, [objects.image_id for objects in truth])
    scores = object_scores(made, truth, classes)
    return Evaluation(**_fields(scores), task="detection", runtime=runtime)


def _fields(scores: Scores) -> dict[str, Any]:
    return {key: getattr(scores, key) for key in asdict(scores)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode while it lasts; each of its modules goes back to its own."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
