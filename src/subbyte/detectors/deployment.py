"""A detector as one module that can be written: images in, boxes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import nn

from subbyte.detectors.base import Deployment, families, family_of
from subbyte.detectors.common import nms
from subbyte.detectors.common.copies import sharing_copy
from subbyte.detectors.common.one_stage import images_of
from subbyte.graph.float_model import Regional

__all__ = ["OF_DETECTORS", "Deployment", "deployment", "detections_of"]

# The own operators of detectors, each with its translation to ONNX.
OF_DETECTORS = reduce(lambda a, b: a | dict(b.operators), families(), dict(nms.TRANSLATIONS))


def deployment(
    model: nn.Module, captured: Regional, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    """What to write of a detector. All that is given stays as it is.

    Args:
        model: The captured model, or a copy that was lowered for a target. The deployed module
            shares the memory of its tensors.
        captured: The captured model.
        args: A batch's arguments, on the model's device; a file takes images of their height and
            width.
        postprocess: The file goes from images to boxes. Without it, it goes from images to the raw
            outputs, or from what the first regions read, if it is unknown how images become that.

    Raises:
        SubbyteError: Nothing is known of how such a model makes boxes, or images are of different
            sizes.
    """
    copy = sharing_copy(model)
    return family_of(copy).deployment(copy, captured, args, postprocess)


def detections_of(
    captured: Regional, args: tuple[Any, ...]
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]] | None:
    """What makes boxes, scores, labels and count of a file's raw outputs, as a whole file would.

    Args:
        captured: The captured model.
        args: A batch's arguments, with images of the file's height and width.

    Returns:
        A function of the file's raw outputs, or `None` where it is unknown how these become boxes.
    """
    family = family_of(captured.model)
    if family.boxes is None:
        return None
    copy = sharing_copy(captured.model)
    boxes = deepcopy(family.boxes(copy, images_of(args))).cpu()
    names = family.deployment(copy, captured, args, False).outputs
    assert names is not None

    @torch.no_grad()
    def make(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(output) for output in outputs]
        return [part.numpy() for part in boxes(dict(zip(names, tensors, strict=True)))]

    return make
