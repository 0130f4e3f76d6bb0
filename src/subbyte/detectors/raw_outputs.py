"""From the raw outputs of a detector's file to its detections, outside of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD

from subbyte.detectors.deployment import Whole, deployment, detections
from subbyte.placement.simulation import Captured
from subbyte.postprocessing import ATTRIBUTE, Anchored
from subbyte.targets.base import Session


def takes_images(model: nn.Module) -> bool:
    """Whether the file with a detector's raw outputs goes from images to these, and no further."""
    facts = getattr(model, ATTRIBUTE, None)
    return isinstance(facts, Anchored) or isinstance(model, SSD | RetinaNet | FCOS)


@contextmanager
def running_in(session: Session, captured: Captured) -> Iterator[None]:
    """While it lasts, a runtime computes a model's one region, and the model what is around it."""
    (name,) = captured.region_names
    region = captured.region(name)

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        outputs = session.run(*(x.detach().cpu().numpy() for x in inputs))
        tensors = [torch.from_numpy(output).to(inputs[0].device) for output in outputs]
        return pytree.tree_unflatten(tensors, region._out_spec)  # type: ignore[arg-type]

    region.__dict__["forward"] = forward
    try:
        yield
    finally:
        del region.__dict__["forward"]


def detections_of(
    captured: Captured, args: tuple[Any, ...]
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]] | None:
    """What makes boxes, scores, labels and count of a file's raw outputs, as a whole file would.

    `None` for a model of which that is not known. `args`: a batch's arguments, of the file's size.
    """
    if not takes_images(captured.model):
        return None
    whole = deployment(captured.model, captured, args, True).module
    names = deployment(captured.model, captured, args, False).outputs
    assert names is not None
    assert isinstance(whole, Whole)
    assert whole.boxes is not None
    boxes = deepcopy(whole.boxes).cpu()  # the model itself stays where it is

    @torch.no_grad()
    def made(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(output) for output in outputs]
        tree = dict(zip(names, tensors, strict=True))
        return [part.numpy() for part in detections(boxes, tree)]

    return made
