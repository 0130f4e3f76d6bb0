"""What the commands for one model do: the same functions as a run's, without an experiment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte import api, models
from subbyte.app.arguments import KnownOfImages, check_output, check_target
from subbyte.app.estimate import look_at, sentences
from subbyte.app.loading import load_model
from subbyte.data.batches import ArgumentsOf
from subbyte.data.few_images import note_on_few
from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import device_of
from subbyte.models import ModelConfig
from subbyte.placement.file_metadata import described
from subbyte.recipe import Recipe
from subbyte.targets import files as target_files
from subbyte.targets.onnx.own_batch import load_for_any_batch
from subbyte.tasks.base import OnnxFile, task_file
from subbyte.tasks.evaluation import evaluating
from subbyte.utils import machine
from subbyte.utils.progress import Progress

log = logging.getLogger("subbyte")


def quantize_model(
    config: ModelConfig,
    calibration: str,
    recipe: Recipe,
    out: Path,
    *,
    images: int,
    batch_size: int,
    device: str,
    preprocessing: Preprocessing | None = None,
    progress: Progress,
    tell: Callable[[str], None] = log.info,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Quantize a model on a folder of images and save it.

    Args:
        config: The model.
        calibration: A folder of images, or the name of bundled data.
        recipe: What to do.
        out: The file to write.
        images: How many to calibrate with at most.
        batch_size: Images a batch.
        device: "cpu" or "cuda".
        preprocessing: Of images, instead of that of the weights.
        progress: Shows how far it is.
        tell: Takes how long it will take, where that is long.

    Returns:
        The rows of `layers`, and as sentences what must be known of the weights, what is odd about
        the images and what was assumed of them.
    """
    check_output(out)
    if device != "cpu" and not torch.cuda.is_available():
        raise SubbyteError(f"device is '{device}', but there is no CUDA device here: give cpu")
    spec = load_model(config, preprocessing)
    module = spec.module.to(device)
    chosen = {
        "images": images,
        "seed": recipe.seed,
        "batch_size": batch_size,
        # A raw network's is a part of its detector.
        "preprocessing": preprocessing if spec.outputs is None else None,
    }
    task = task_file(spec.task)
    batches, preparation = task.calibration(calibration, spec, chosen, device, progress)
    with evaluating(module):
        look = look_at(module, next(iter(ArgumentsOf(batches, device_of(module)))))
    for sentence in sentences({spec.name: recipe}, look, batches.images, batch_size):
        tell(sentence)
    quantized = api.quantize(module, batches, recipe, progress=progress)
    quantized.metadata |= {
        "task": spec.task,
        "model": spec.name,
        "classes": None if spec.classes is None else list(spec.classes),
        **preparation,
    }
    api.save(quantized, out)
    return api.layers(quantized), [
        *spec.notes,
        *batches.notes,
        *note_on_few(batches.images),
        *quantized.reported.get("target", ()),
    ]


def export_model(
    config: ModelConfig,
    quantized: Path,
    out: Path,
    target: str | None = None,
    postprocess: bool = True,
    known: KnownOfImages | None = None,
) -> tuple[str, ...]:
    """Write a saved quantized model; return what the file does not have, as sentences.

    Args:
        config: The float model.
        quantized: The saved file.
        out: The file to write.
        target: What it is for; `None`: the recipe's target, or all runtimes.
        postprocess: A detector with the whole way from images to boxes, else its raw outputs.
        known: Of the classes and of how images are prepared.

    Raises:
        SubbyteError: What is known does not fit the model, or the images of the calibration were
            prepared otherwise.
    """
    check_target(target)
    simulation = api.load(models.load(config).module, quantized)
    images = simulation.metadata.get("images")
    if images is not None:  # a detector's, calibrated on images of any sizes
        example: Any = (torch.zeros(2, 3, *images["size"]),)
    else:
        example = pytree.tree_map(
            lambda x: torch.zeros_like(x, device="cpu") if isinstance(x, torch.Tensor) else x,
            simulation.example,
        )
    if known is not None and known != KnownOfImages():
        _check_prepared(quantized, simulation.metadata, known.preprocessing)
        simulation.metadata = described(simulation, example, known.classes, known.preprocessing)
    return target_files.export(simulation, out, example, target, postprocess)


def _check_prepared(
    quantized: Path, metadata: Mapping[str, Any], given: Preprocessing | None
) -> None:
    """Refuse another preprocessing than that of the calibration, if the saved file has one."""
    saved = metadata.get("preprocessing")
    if given is None or not isinstance(saved, dict) or given.as_classifiers() == saved:
        return
    raise SubbyteError(
        f"{quantized} was calibrated on images that were prepared otherwise ({saved}): leave "
        "--preprocessing out, and the file takes images in the same way"
    )


def evaluate_model(
    path: Path,
    source: str,
    classes: Path | None,
    runtime: str | None,
    batch_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """Metrics of an ONNX file on labelled images, with their interval and number of images.

    Args:
        path: The file.
        source: A folder, or the name of bundled data.
        classes: A file with a class a line, as `data.classes`.
        runtime: What it runs in; `None`: what it is for, or ONNX Runtime.
        batch_size: Images a batch.
        progress: Shows how far it is.
    """
    runtime = target_files.runtime_of(path, runtime)
    file = _file(path, runtime)
    task = task_file(file.metadata["task"])
    found = task.evaluate(file, source, classes, batch_size, progress)
    return {**found, "runtime": runtime}


def predict_images(
    path: Path, images: Sequence[Path], top: int, runtime: str | None
) -> list[dict[str, Any]]:
    """The likeliest classes of each image, with their probabilities; of a detector the objects.

    Args:
        path: The ONNX file.
        images: The image files.
        top: How many classes or objects of each image at most.
        runtime: What it runs in; `None`: what it is for, or ONNX Runtime.
    """
    file = _file(path, target_files.runtime_of(path, runtime))
    return task_file(file.metadata["task"]).predict(file, images, top)


def _file(path: Path, runtime: str) -> OnnxFile:
    """A file with its metadata; `SubbyteError` if these do not hold how it takes images."""
    metadata = target_files.read_metadata(path)
    if metadata.get("preprocessing") is None and "images" not in metadata:
        raise SubbyteError(
            f"{path} does not say how to prepare images: name a file that subbyte run or subbyte "
            "export has written, or give preprocessing to subbyte.export in Python"
        )
    metadata = {"task": "classification", **metadata}
    return OnnxFile(path, metadata, lambda: load_for_any_batch(runtime, path, machine.threads()))
