"""The loss by which a detector was trained, of raw outputs that its regions have given."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.detectors.base import TrainingLoss
from subbyte.detectors.common.copies import sharing_copy
from subbyte.errors import SubbyteError
from subbyte.graph.capture.place import complaint
from subbyte.graph.float_model import Regional

LOSS = "compute_loss"  # the method of torchvision's heads that gives their loss
Shapes = list[list[tuple[int, ...]]]  # of what each region gives


def loss_in_training(captured: Regional, original: nn.Module) -> TrainingLoss | None:
    """The sum of the losses that a model returns in training mode, of its raw outputs.

    A copy of the model's own code around its regions runs in training mode, while the regions give
    the raw outputs. Batch norms outside of the regions stay in evaluation mode.

    Args:
        captured: The captured model.
        original: The user's model, whose heads may have a method `compute_loss`.

    Returns:
        The loss, a function of the raw outputs and the targets, see `detectors.training_loss`;
        `None` for a model that takes no `targets`.
    """
    if "targets" not in inspect.signature(captured.model.forward).parameters:
        return None
    still, around = sharing_copy(captured.model), sharing_copy(captured.model)
    _train_around(around, captured.region_names)
    known: dict[tuple[tuple[int, int], ...], Shapes] = {}

    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        leaves = pytree.tree_leaves(outputs)
        sizes = tuple(tuple(target["size"]) for target in targets)
        # Of the images the code around the regions asks for no more than the sizes.
        images = [leaves[0].new_zeros(1, 1, 1).expand(3, *size) for size in sizes]
        if sizes not in known:
            known[sizes] = _shapes(still, captured.region_names, images)
        objects = [_objects(target, leaves[0].device) for target in targets]
        try:
            _give(around, captured, original, leaves, known[sizes])
            losses: Mapping[str, torch.Tensor] = around(images, objects)
        except Exception as error:
            raise SubbyteError(
                f"the model has no loss for the targets: {complaint(error)}; give boxes and "
                "labels as for its training, or batches without targets"
            ) from error
        finally:
            _take_back(around, captured.region_names)
        return torch.stack([value.sum() for value in losses.values()]).sum()

    return loss


def _objects(target: Mapping[str, Any], device: torch.device) -> dict[str, torch.Tensor]:
    boxes, labels = (torch.as_tensor(target[key]).to(device) for key in ("boxes", "labels"))
    crowds = target.get("iscrowd")
    if crowds is not None:
        keep = torch.as_tensor(crowds).to(device) == 0
        boxes, labels = boxes[keep], labels[keep]
    return {"boxes": boxes, "labels": labels}


@torch.no_grad()
def _shapes(model: nn.Module, names: Iterable[str], images: Sequence[torch.Tensor]) -> Shapes:
    """The shapes of all that the regions give for images of these sizes."""
    found: Shapes = []

    def keep(_: nn.Module, __: Any, outputs: Any) -> None:
        found.append([tuple(leaf.shape) for leaf in pytree.tree_leaves(outputs)])

    handles = [model.get_submodule(name).register_forward_hook(keep) for name in names]
    try:
        model(list(images))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _give(
    model: nn.Module,
    captured: Regional,
    original: nn.Module,
    leaves: Sequence[Any],
    shapes: Shapes,
) -> None:
    """Let the regions give `leaves`, and zeros where another region reads their outputs.

    Args:
        model: A copy of the captured model, whose regions change.
        captured: The captured model.
        original: The user's model.
        leaves: The raw outputs, of one region after the other.
        shapes: Of all that each region gives.
    """
    waiting = iter(leaves)
    for name, own in zip(captured.region_names, shapes, strict=True):
        region: Any = model.get_submodule(name)
        given = [
            leaves[0].new_zeros(()).expand(shape)
            if captured.flow.readers((name, i))
            else next(waiting)
            for i, shape in enumerate(own)
        ]
        outputs = pytree.tree_unflatten(given, region._out_spec)
        region.forward = lambda *_, outputs=outputs, **__: outputs
        of_head = getattr(original.get_submodule(name), LOSS, None)
        if of_head is not None:
            region.__dict__[LOSS] = of_head


def _take_back(model: nn.Module, names: Iterable[str]) -> None:
    """Let the regions of a copy hold no outputs any more."""
    for name in names:
        model.get_submodule(name).__dict__.pop("forward", None)


def _train_around(model: nn.Module, names: Iterable[str]) -> None:
    """Put all that is outside of the regions into training mode, but for batch norm."""
    inside = {id(part) for name in names for part in model.get_submodule(name).modules()}
    for part in model.modules():
        norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
        if id(part) not in inside and not norm:
            part.training = True
