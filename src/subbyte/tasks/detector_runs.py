"""How a detector is run as a module or from a file, and what it found on an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from subbyte.detectors.common.nms import OUTPUTS
from subbyte.detectors.letterbox import Letterbox, letterbox_of
from subbyte.errors import SubbyteError
from subbyte.graph.capture.place import complaint
from subbyte.targets.base import Run, Session
from subbyte.targets.files import output_names
from subbyte.tasks.base import OnnxFile
from subbyte.tasks.metrics import detection as metrics

FoundObjects = dict[str, Any]  # of one image: boxes, scores, labels


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
    metrics.check_detections(output, len(images))


def simulated(model: torch.nn.Module, device: Any, letterbox: Letterbox | None = None) -> Run:
    """Run a detector in PyTorch; detections are in each image's own pixels.

    Args:
        model: The detector, on `device`.
        device: Where images go.
        letterbox: How a file takes images, where the model is given them so; `None`: as they are.
    """

    @torch.no_grad()
    def run(inputs: Sequence[torch.Tensor]) -> list[FoundObjects]:
        images = [image.to(device) for image in inputs]
        if letterbox is None:
            return [arrays_of(found) for found in model(images)]
        found = [arrays_of(found) for found in model(list(letterbox.images(images)))]
        return [
            letterbox.back(one, (image.shape[-2], image.shape[-1]))
            for one, image in zip(found, images, strict=True)
        ]

    return run


def deployed(session: Session, letterbox: Letterbox, made: Any = list) -> Run:
    """Run a detector's file on images of any sizes.

    Args:
        session: The file, in a runtime.
        letterbox: How the file takes images.
        made: From the file's outputs to boxes, scores, labels and count.
    """

    def run(inputs: Sequence[torch.Tensor]) -> list[FoundObjects]:
        *rows, counts = made(session.run(letterbox.images(inputs).numpy()))
        found = []
        for i, (image, count) in enumerate(zip(inputs, counts.tolist(), strict=True)):
            own = {key: row[i, :count] for key, row in zip(metrics.KEYS, rows, strict=True)}
            found.append(letterbox.back(own, (image.shape[-2], image.shape[-1])))
        return found

    return run


def run_file(file: OnnxFile) -> Run:
    """Run a detector's file; `SubbyteError` if it gives no boxes."""
    if output_names(file.path) != list(OUTPUTS):
        raise SubbyteError(
            f"{file.path} gives raw outputs, not boxes: name a file that was written with "
            "post-processing (export.postprocess: true)"
        )
    return deployed(file.load(), letterbox_of(file.metadata["images"]))


def arrays_of(found: Mapping[str, torch.Tensor]) -> FoundObjects:
    """The detections on one image as arrays."""
    return {key: found[key].detach().cpu().numpy() for key in metrics.KEYS}


def objects_of(
    found: FoundObjects, classes: Sequence[str] | None, top: int
) -> list[dict[str, Any]]:
    """The objects on one image, as plain data.

    Args:
        found: The detections, the highest score first.
        classes: Names, that of label 1 first; `None`: unknown.
        top: How many at most.
    """
    rows = zip(found["labels"].tolist(), found["scores"], found["boxes"], strict=True)
    return [
        {
            "class": classes[label - 1] if classes and label <= len(classes) else str(label),
            "score": float(score),
            "box": [round(float(side), 2) for side in box],
        }
        for label, score, box in list(rows)[:top]
    ]
