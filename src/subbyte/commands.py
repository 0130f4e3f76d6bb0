"""What the commands for one model do: the same functions as a run's, without an experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch.utils import _pytree as pytree

from subbyte import api, models, storage
from subbyte.data import open_calibration, open_evaluation, read_image_tensor
from subbyte.errors import SubbyteError, unknown
from subbyte.experiment import RUNTIMES, read_setting
from subbyte.models import ModelConfig
from subbyte.preprocessing import Preprocessing
from subbyte.progress import Progress
from subbyte.recipe import Recipe
from subbyte.runtime import machine, onnx, verify
from subbyte.tasks import classification as task
from subbyte.validation import explain


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
    batches = open_calibration(
        calibration,
        spec.preprocessing,
        images=images,
        seed=recipe.seed,
        batch_size=batch_size,
        progress=progress,
    )
    quantized = api.quantize(spec.module.to(device), batches, recipe, progress=progress)
    preprocessing = spec.preprocessing or Preprocessing()
    quantized.facts.metadata |= {
        "task": spec.task,
        "model": spec.name,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "classes": None if spec.classes is None else list(spec.classes),
    }
    storage.save(quantized, out)
    return api.layers(quantized), list(batches.notes)


def export_model(
    config: ModelConfig, quantized: Path, out: Path, target: str | None = None
) -> None:
    """Write a saved quantized model as ONNX, for all runtimes or for one, `target`."""
    if target is not None and target not in RUNTIMES:
        raise unknown("target", target, RUNTIMES)
    captured = storage.load(models.load(config).module, quantized)
    example = pytree.tree_map(
        lambda x: torch.zeros_like(x, device="cpu") if isinstance(x, torch.Tensor) else x,
        captured.facts.example,
    )
    onnx.export(captured, out, example, target)


def evaluate_model(
    path: Path,
    source: str,
    classes: Path | None,
    runtime: str,
    batch_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """Metrics of an ONNX file on labelled images, with their interval and number of images."""
    preprocessing, names = _described(path)
    run = verify.deployed(_load(path, runtime))
    found = open_evaluation(
        source, preprocessing, classes=classes, batch_size=batch_size, progress=progress
    )
    first = run(next(iter(found.batches))["inputs"])
    images = found.labelled(first.shape[1], names)
    logits, labels = verify.outputs({runtime: run}, images.batches, progress, "evaluating")
    outputs = task.Outputs(logits[runtime], labels)
    metrics = task.metrics(outputs)
    return {
        "metrics": metrics,
        "images": outputs.images,
        "intervals": {"top1": list(task.interval(metrics["top1"], outputs.images))},
        "runtime": runtime,
        "classes": asdict(images.coverage),
        "notes": list(images.batches.notes),
    }


def predict_images(
    path: Path, images: Sequence[Path], top: int, runtime: str
) -> list[dict[str, Any]]:
    """The likeliest classes of each image, with their probabilities."""
    preprocessing, classes = _described(path)
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


def _described(path: Path) -> tuple[Preprocessing, list[str] | None]:
    metadata = onnx.read_metadata(path)
    if "preprocessing" not in metadata:
        raise SubbyteError(
            f"{path} does not say how to prepare images: name a file that subbyte run or subbyte "
            "export has written"
        )
    return Preprocessing(**metadata["preprocessing"]), metadata.get("classes")


def _load(path: Path, runtime: str) -> verify.Session:
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    return verify.runtime(runtime).load(path, machine.threads())
