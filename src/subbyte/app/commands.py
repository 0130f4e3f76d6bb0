"""What the commands for one model do: the same functions as a run's, without an experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch.utils import _pytree as pytree

from subbyte import api, models
from subbyte.app.experiment import RUNTIMES, read_setting
from subbyte.data import (
    open_calibration,
    open_detection_calibration,
    open_detection_evaluation,
    open_evaluation,
    read_image_tensor,
)
from subbyte.data.detection.dataset import PLAIN
from subbyte.data.preprocessing import Preprocessing
from subbyte.detectors import letterbox_for
from subbyte.detectors.common.letterbox import letterbox_of
from subbyte.detectors.common.nms import OUTPUTS
from subbyte.errors import SubbyteError, unknown
from subbyte.models import ModelConfig
from subbyte.placement import storage
from subbyte.recipe import Recipe
from subbyte.targets import base as verify
from subbyte.targets.onnx import export as onnx
from subbyte.tasks import classification, detection
from subbyte.tasks.metrics.detection import outputs_of
from subbyte.utils import machine
from subbyte.utils.progress import Progress
from subbyte.utils.validation import explain


def model_config(
    name: str, weights: str | None, checkpoint: Path | None, num_classes: int | None
) -> ModelConfig:
    """The configuration of a model by name, or by FILE.py:FUNCTION."""
    source = {"factory": name} if ":" in name else {"name": name}
    try:
        return ModelConfig(
            **source, weights=weights, checkpoint=checkpoint, num_classes=num_classes
        )
    except ValidationError as error:
        raise explain(error, ModelConfig) from None


def recipe_of(bits: str, settings: Sequence[str], seed: int) -> Recipe:
    """The recipe for "w4a8" with `KEY=VALUE` settings of its fields on top."""
    match = re.fullmatch(r"w(\d+)a(\d+)", bits)
    if match is None:
        raise SubbyteError(f"bits is '{bits}': write weights and activations as w8a8 or w4a4")
    fields: dict[str, Any] = {"weights": int(match[1]), "activations": int(match[2]), "seed": seed}
    return Recipe(**(fields | dict(map(read_setting, settings))))


def quantize_model(
    config: ModelConfig,
    calibration: str,
    recipe: Recipe,
    out: Path,
    *,
    images: int,
    batch_size: int,
    device: str,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Quantize a model on a folder of images and save it; return the rows of `layers`, and notes.

    The notes say, as sentences, what is odd about the images and what was assumed of them.
    """
    if out.is_dir():
        raise SubbyteError(f"{out} is a folder: name a file to write")
    if device != "cpu" and not torch.cuda.is_available():
        raise SubbyteError(f"device is '{device}', but there is no CUDA device here: give cpu")
    spec = models.load(config)
    module = spec.module.to(device)
    chosen = {"images": images, "seed": recipe.seed, "batch_size": batch_size}
    facts: dict[str, Any]
    batches: Any
    if spec.task == "detection":
        batches = open_detection_calibration(calibration, **chosen, progress=progress)
        few = replace(batches, limit=min(detection.EXAMPLES, batches.images))
        detection.check_detector(
            module, [image.to(device) for batch in few for image in batch["inputs"]]
        )
        letterbox = letterbox_for(module, {found.size for found in batches.objects})
        facts = {"preprocessing": None, "images": letterbox.metadata()}
    else:
        batches = open_calibration(calibration, spec.preprocessing, **chosen, progress=progress)
        preprocessing = spec.preprocessing or Preprocessing()
        facts = {"preprocessing": preprocessing.model_dump(mode="json")}
    quantized = api.quantize(module, batches, recipe, progress=progress)
    quantized.facts.metadata |= {
        "task": spec.task,
        "model": spec.name,
        "classes": None if spec.classes is None else list(spec.classes),
        **facts,
    }
    storage.save(quantized, out)
    return api.layers(quantized), list(batches.notes)


def export_model(
    config: ModelConfig,
    quantized: Path,
    out: Path,
    target: str | None = None,
    postprocess: bool = True,
) -> None:
    """Write a saved quantized model as ONNX, for all runtimes or for one, `target`.

    `postprocess`: a detector with the whole way from images to boxes, else its raw outputs.
    """
    if target is not None and target not in RUNTIMES:
        raise unknown("target", target, RUNTIMES)
    captured = storage.load(models.load(config).module, quantized)
    images = captured.facts.metadata.get("images")
    if images is not None:  # a detector's, calibrated on images of any sizes
        example: Any = (torch.zeros(2, 3, *images["size"]),)
    else:
        example = pytree.tree_map(
            lambda x: torch.zeros_like(x, device="cpu") if isinstance(x, torch.Tensor) else x,
            captured.facts.example,
        )
    onnx.export(captured, out, example, target, postprocess)


def evaluate_model(
    path: Path,
    source: str,
    classes: Path | None,
    runtime: str,
    batch_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """Metrics of an ONNX file on labelled images, with their interval and number of images."""
    metadata = _described(path)
    if metadata["task"] == "detection":
        return _evaluate_detector(path, metadata, source, classes, runtime, batch_size, progress)
    preprocessing, names = Preprocessing(**metadata["preprocessing"]), metadata.get("classes")
    run = verify.deployed(_load(path, runtime))
    found = open_evaluation(
        source, preprocessing, classes=classes, batch_size=batch_size, progress=progress
    )
    first = run(next(iter(found.batches))["inputs"])
    images = found.labelled(first.shape[1], names)
    parts, labels = verify.collected({runtime: run}, images.batches, progress, "evaluating")
    return {
        **classification.scores(classification.joined(parts[runtime], labels)),
        "runtime": runtime,
        "classes": asdict(images.coverage),
        "notes": list(images.batches.notes),
    }


def _evaluate_detector(
    path: Path,
    metadata: dict[str, Any],
    source: str,
    classes: Path | None,
    runtime: str,
    batch_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """COCO's metrics of a detector's file, and of VOC's data VOC's."""
    run = _detector(path, metadata, runtime)
    found, is_voc = open_detection_evaluation(
        source, classes=classes, batch_size=batch_size, progress=progress
    )
    names = metadata["classes"]
    data = found.labelled(None if names is None else len(names) + 1, names)
    parts, _ = verify.collected({runtime: run}, data.evaluation, progress, "evaluating")
    ids = [known.image_id for known in data.evaluation.objects]
    outputs = outputs_of([one for part in parts[runtime] for one in part], ids)
    scores, notes = detection.scores(outputs, data, is_voc=is_voc)
    return {**scores, "runtime": runtime, "notes": [*data.notes, *notes]}


def predict_images(
    path: Path, images: Sequence[Path], top: int, runtime: str
) -> list[dict[str, Any]]:
    """The likeliest classes of each image, with their probabilities; of a detector the objects.

    `top`: how many at most.
    """
    metadata = _described(path)
    classes = metadata.get("classes")
    if metadata["task"] == "detection":
        plain = [read_image_tensor(image, PLAIN) for image in images]
        run = _detector(path, metadata, runtime)
        return [
            {"image": str(image), "objects": _objects(run(list(tensor))[0], classes, top)}
            for image, tensor in zip(images, plain, strict=True)
        ]
    preprocessing = Preprocessing(**metadata["preprocessing"])
    tensors = [read_image_tensor(image, preprocessing) for image in images]
    session = _load(path, runtime)
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


def summary(path: Path) -> str:
    """The first comment of an experiment's file."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def _described(path: Path) -> dict[str, Any]:
    """What a file says of itself; `SubbyteError` if not how it takes images."""
    metadata = onnx.read_metadata(path)
    if metadata.get("preprocessing") is None and "images" not in metadata:
        raise SubbyteError(
            f"{path} does not say how to prepare images: name a file that subbyte run or subbyte "
            "export has written"
        )
    return {"task": "classification", **metadata}


def _detector(path: Path, metadata: dict[str, Any], runtime: str) -> verify.Run:
    """Run a detector's file; `SubbyteError` if it gives no boxes."""
    if onnx.output_names(path) != list(OUTPUTS):
        raise SubbyteError(
            f"{path} gives raw outputs and no boxes: name a file that was written with "
            "post-processing (export.postprocess: true)"
        )
    return detection.deployed(_load(path, runtime), letterbox_of(metadata["images"]))


def _objects(
    found: dict[str, Any], classes: Sequence[str] | None, top: int
) -> list[dict[str, Any]]:
    """The detections of the highest scores, as plain data."""
    rows = zip(found["labels"].tolist(), found["scores"], found["boxes"], strict=True)
    return [
        {
            "class": classes[label - 1] if classes and label <= len(classes) else str(label),
            "score": float(score),
            "box": [round(float(side), 2) for side in box],
        }
        for label, score, box in list(rows)[:top]
    ]


def _load(path: Path, runtime: str) -> verify.Session:
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    return verify.runtime(runtime).load(path, machine.threads())
