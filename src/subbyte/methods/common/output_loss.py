"""What a search over a whole network makes small, and the images it is looked at on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.nn.functional import kl_div
from torch.utils import _pytree as pytree

from subbyte.data.batches import ArgumentsOf, Batch
from subbyte.errors import SubbyteError
from subbyte.graph.batch import cut, parts
from subbyte.methods.scale_search.network import Portion
from subbyte.placement.simulation import Captured

AT_ONCE = 32  # images of a portion

Targets = Literal["auto", "labels", "outputs"]


def portions_of(
    captured: Captured, batches: ArgumentsOf, images: int, targets: Targets
) -> tuple[list[Portion], bool]:
    """The first so many images in portions with their targets, and whether these are labels.

    targets: "labels", the float model's "outputs", or "auto": labels where all batches have them.

    Raises:
        SubbyteError: Labels were asked for and a batch has none, or outputs are of proposals.
    """
    found = list(_portions(batches, images))
    without = sum(part.targets is None for part in found)
    if targets == "labels" and without:
        raise SubbyteError(
            "targets is 'labels' and the calibration has images without labels: give batches of "
            "(inputs, labels), or targets: outputs"
        )
    if targets != "outputs" and not without:
        return [Portion(part.args, part.targets, part.size) for part in found], True
    with torch.no_grad(), captured.in_float():
        portions = [Portion(part.args, captured.raw(*part.args), part.size) for part in found]
    if len(captured.region_names) > 1:
        leaves = [(x, part) for part in portions for x in pytree.tree_leaves(part.targets)]
        if any(len(x) != part.images for x, part in leaves if isinstance(x, torch.Tensor)):
            raise SubbyteError(
                "lapq compares what a detector's heads give for each image, and one of this "
                "model's gives something for each proposal: choose another method"
            )
    return portions, False


def divergence(outputs: Any, targets: Any) -> torch.Tensor:
    """How far outputs are from those of the float model, as a mean over images.

    Of one matrix, (images, classes): the Kullback-Leibler divergence of the softmax of the float
    model's rows from that of these. Of anything else: the squared error relative to the energy of
    the float model's outputs, summed over the tensors.
    """
    if _are_logits(targets):
        expected, found = targets.log_softmax(1), outputs.log_softmax(1)
        return kl_div(found, expected, reduction="batchmean", log_target=True)
    errors = [
        (output - target).square().sum() / target.square().sum().clamp(min=1e-12)
        for output, target in _compared(outputs, targets)
    ]
    return torch.stack(errors).sum()


def divergences(outputs: Any, targets: Any) -> torch.Tensor:
    """What each image, (images,), has in the mean that is `divergence`.

    All tensors have a row for each image.
    """
    if _are_logits(targets):
        expected, found = targets.log_softmax(1), outputs.log_softmax(1)
        return kl_div(found, expected, reduction="none", log_target=True).sum(1)
    errors = [
        (output - target).square().flatten(1).sum(1)
        * (len(target) / target.square().sum().clamp(min=1e-12))
        for output, target in _compared(outputs, targets)
    ]
    return torch.stack(errors).sum(0)


def _are_logits(targets: Any) -> bool:
    return isinstance(targets, torch.Tensor) and targets.dim() == 2 and targets.shape[1] > 1


def _compared(outputs: Any, targets: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors of floating point with what they should be."""
    pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(targets), strict=True)
    return [
        (output, target)
        for output, target in pairs
        if isinstance(target, torch.Tensor) and target.is_floating_point()
    ]


def _portions(batches: ArgumentsOf, images: int) -> Iterator[Batch]:
    """The first so many images, with their targets, a few at a time."""
    for batch, chosen in parts(batches.labelled(), lambda batch: batch.size, images, AT_ONCE):
        args = cut(batch.args, chosen)
        targets = None if batch.targets is None else batch.targets[chosen]
        yield Batch(args, targets, chosen.stop - chosen.start)
