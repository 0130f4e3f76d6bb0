"""Hugging Face's transformers: image classifiers and object detectors as Subbyte takes them."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subbyte import detection
from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError
from subbyte.models.checkpoint import load_checkpoint
from subbyte.models.config import ModelConfig
from subbyte.models.processor import of_classifier, of_detector, strays
from subbyte.models.spec import ModelSpec
from subbyte.models.transformers_folder import folder_of, task_of

SIDE = 224  # of a square image, where nothing says what a network reads


class Classifier(nn.Module):
    """A network that returns its logits, and nothing else.

    Args:
        model: Of transformers, with `logits` among its outputs.
        bgr: It reads blue, green and red.
    """

    def __init__(self, model: nn.Module, bgr: bool = False) -> None:
        super().__init__()
        self.model, self.bgr = model, bgr

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        if self.bgr:
            images = torch.cat([images[:, 2:], images[:, 1:2], images[:, :1]], 1)
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


class Detector(nn.Module):
    """A network that returns the logits and boxes of its queries, and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [N, Q, classes] and boxes [N, Q, 4] of images [N, 3, H, W]."""
        found = self.model(pixel_values=images)
        return {"logits": found.logits, "pred_boxes": found.pred_boxes}


def load(config: ModelConfig) -> ModelSpec:
    """A model by its folder or its name in the cache, with its processor's preprocessing.

    Raises:
        SubbyteError: Its weights cannot be read or do not fit, or a library that it needs is not
            installed.
    """
    name = str(config.name)
    folder, task = folder_of(name), task_of(name)
    model = _built(config, folder, task)
    processor = _processor(folder)
    if task == "classification":
        return _classifier(name, model, processor)
    return _detector(name, model, processor)


def _classifier(name: str, model: Any, processor: Any) -> ModelSpec:
    preprocessing = None if processor is None else of_classifier(processor)
    bgr = bool(getattr(processor, "do_flip_channel_order", False))
    return ModelSpec(
        name=name,
        module=Classifier(model, bgr),
        task="classification",
        preprocessing=preprocessing,
        classes=_classes(model),
        notes=_notes(name, processor, preprocessing),
    )


def _detector(name: str, model: Any, processor: Any) -> ModelSpec:
    preprocessing = detection.Preprocessing() if processor is None else of_detector(processor)
    module, labels = Detector(model).eval(), int(model.config.num_labels)
    return ModelSpec(
        name=name,
        module=module,
        task="detection",
        preprocessing=preprocessing,
        classes=_classes(model),
        notes=_notes(name, processor, preprocessing),
        outputs=_outputs(name, module, labels, preprocessing),
    )


@torch.no_grad()
def _outputs(
    name: str, module: Detector, labels: int, preprocessing: detection.Preprocessing
) -> detection.Outputs:
    """The sentence about a detector's queries: with one class more than labels there is a softmax.

    Args:
        name: Of the model.
        module: It.
        labels: How many it has.
        preprocessing: How images become what it reads.

    Raises:
        SubbyteError: It gives no logits and boxes of queries.
    """
    square = preprocessing.letterbox or preprocessing.resize or SIDE
    height, width = square if isinstance(square, tuple) else (square, square)
    try:
        found = module(torch.zeros(1, 3, height, width))
    except Exception as error:
        raise SubbyteError(
            f"{name} gives no logits and boxes of queries for an image of {height} × {width} "
            f"({type(error).__name__}: {_one_line(error)}): build it in a function and give that "
            "as model.factory, with model.outputs"
        ) from error
    queries, width = found["logits"].shape[1:]
    return detection.Outputs(
        form="queries",
        activation="softmax" if width == labels + 1 else "sigmoid",
        classes=labels,
        top=queries,
    )


def _built(config: ModelConfig, folder: Path, task: str) -> Any:
    transformers = importlib.import_module("transformers")
    kind = "AutoModelForImageClassification"
    if task == "detection":
        kind = "AutoModelForObjectDetection"
    auto = getattr(transformers, kind)
    try:
        with _quiet():
            known = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            if config.checkpoint is not None:
                model = auto.from_config(known)
                info: dict[str, Any] = {}
            else:
                model, info = auto.from_pretrained(
                    folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
                )
    except Exception as error:
        raise SubbyteError(
            f"{config.name} could not be loaded from {folder} ({type(error).__name__}: "
            f"{_one_line(error)})"
        ) from error
    missing = [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]
    if missing:
        shown = ", ".join(sorted(str(key) for key in missing)[:3])
        raise SubbyteError(
            f"the weights in {folder} are not all of {config.name}'s: {len(missing)} are missing "
            f"or of another shape ({shown}): give the weights of this config.json"
        )
    if config.checkpoint is not None:
        load_checkpoint(model, config.checkpoint, config.checkpoint_key)
    return model


def _processor(folder: Path) -> Any:
    """The model's image processor; `None` where it has none."""
    if not (folder / "preprocessor_config.json").is_file():
        return None
    transformers = importlib.import_module("transformers")
    try:
        with _quiet():
            return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise SubbyteError(
            f"{folder / 'preprocessor_config.json'} could not be loaded ({type(error).__name__}: "
            f"{_one_line(error)})"
        ) from error


def _classes(model: Any) -> tuple[str, ...] | None:
    """The labels' names; `None` where they are LABEL_0, LABEL_1 and so on."""
    labels = model.config.id2label
    found = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return None if found == tuple(f"LABEL_{i}" for i in range(len(found))) else found


def _notes(name: str, processor: Any, preprocessing: Preprocessing | None) -> tuple[str, ...]:
    if processor is None or preprocessing is None:
        return (
            f"{name} has no preprocessor_config.json, which says how images are prepared: give "
            "data.preprocessing",
        )
    stray = strays(processor, preprocessing)
    return () if stray is None else (f"{name}: {stray}",)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remarks and bars; stdout is ours."""
    utils = importlib.import_module("transformers.utils.logging")
    before, bars = logging.root.manager.disable, utils.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    utils.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if bars:
            utils.enable_progress_bar()
