"""A detector's own training loss, of raw outputs that its regions have given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD

from subbyte.errors import SubbyteError
from subbyte.graph.capture.export import complaint
from subbyte.placement.simulation import Captured
from subbyte.postprocessing import ATTRIBUTE, Anchored

LOSS = "compute_loss"  # by which a head of torchvision's says how wrong its outputs are
Shapes = list[list[tuple[int, ...]]]  # of what each region gives
Loss = Callable[[Any, Any], torch.Tensor]


def training_loss(captured: Captured, original: nn.Module) -> Loss | None:
    """The sum of the losses that the model returns in training mode, of its raw outputs.

    `original`: the model that was captured, some of whose heads say how wrong they are.

    A function of what `captured.raw` gives for a batch and of its targets: a dictionary for each
    image, of `boxes`, `labels` and the image's `size`, height and width. Objects that are crowds do
    not count. The model's code around its regions runs in training mode while the regions give
    these outputs; no batch norm and no region changes its mode. `None` for a model of which it is
    not known: all but torchvision's one-stage detectors and the SSD family.

    Its function raises `SubbyteError` if the targets do not fit.
    """
    model = captured.model
    anchored = isinstance(getattr(model, ATTRIBUTE, None), Anchored)
    of_targets = "targets" in inspect.signature(model.forward).parameters
    if not isinstance(model, SSD | RetinaNet | FCOS) and not (anchored and of_targets):
        return None
    known: dict[tuple[tuple[int, int], ...], Shapes] = {}

    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        leaves = pytree.tree_leaves(outputs)
        sizes = tuple(tuple(target["size"]) for target in targets)
        # Of the images the code around the regions asks for no more than the sizes.
        images = [leaves[0].new_zeros(1, 1, 1).expand(3, *size) for size in sizes]
        if sizes not in known:
            known[sizes] = _shapes(captured, images)
        objects = [_objects(target, leaves[0].device) for target in targets]
        with _giving(captured, original, leaves, known[sizes]), _training(captured):
            try:
                losses: Mapping[str, torch.Tensor] = model(images, objects)
            except Exception as error:
                raise SubbyteError(
                    f"the model has no loss for the targets: {complaint(error)}; give boxes and "
                    "labels as for its training, or batches without targets"
                ) from error
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
def _shapes(captured: Captured, images: Sequence[torch.Tensor]) -> Shapes:
    """The shapes of all that the regions give for images of these sizes."""
    found: Shapes = []

    def keep(_: nn.Module, __: Any, outputs: Any) -> None:
        found.append([tuple(leaf.shape) for leaf in pytree.tree_leaves(outputs)])

    with ExitStack() as stack, captured.in_float():
        for name in captured.region_names:
            stack.callback(captured.region(name).register_forward_hook(keep).remove)
        captured(list(images))
    return found


@contextmanager
def _giving(
    captured: Captured, original: nn.Module, leaves: Sequence[Any], shapes: Shapes
) -> Iterator[None]:
    """While it lasts, regions give `leaves`, and zeros where another region reads their outputs."""
    waiting = iter(leaves)
    regions: list[fx.GraphModule] = []
    for name, own in zip(captured.region_names, shapes, strict=True):
        region = captured.region(name)
        given = [
            leaves[0].new_zeros(()).expand(shape)
            if captured.flow.readers((name, i))
            else next(waiting)
            for i, shape in enumerate(own)
        ]
        outputs = pytree.tree_unflatten(given, region._out_spec)  # type: ignore[arg-type]
        instead = {"forward": lambda *_, outputs=outputs, **__: outputs}
        of_head = getattr(original.get_submodule(name), LOSS, None)
        region.__dict__.update(instead | ({LOSS: of_head} if of_head else {}))
        regions.append(region)
    try:
        yield
    finally:
        for region in regions:
            for key in ("forward", LOSS):
                region.__dict__.pop(key, None)


@contextmanager
def _training(captured: Captured) -> Iterator[None]:
    """While it lasts, what is around the regions is in training mode, but for batch norm."""
    inside = {
        id(part) for name in captured.region_names for part in captured.region(name).modules()
    }
    changed = [
        part
        for part in captured.model.modules()
        if id(part) not in inside
        and not part.training
        and not isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    for part in changed:
        part.training = True
    try:
        yield
    finally:
        for part in changed:
            part.training = False
