"""How far a model's outputs are from what they should be."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import kl_div
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError

STANDARD_ERRORS = 1.0  # by which a loss has grown where that is not chance


def divergence(outputs: Any, targets: Any) -> torch.Tensor:
    """How far outputs are from those of the float model, as a mean over images.

    Of one matrix, (images, classes): the Kullback-Leibler divergence of the softmax of the float
    model's rows from that of these. Of anything else: the squared error relative to the energy of
    the float model's outputs, summed over the tensors.
    """
    if is_logits(targets):
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
    if is_logits(targets):
        expected, found = targets.log_softmax(1), outputs.log_softmax(1)
        return kl_div(found, expected, reduction="none", log_target=True).sum(1)
    errors = [
        (output - target).square().flatten(1).sum(1)
        * (len(target) / target.square().sum().clamp(min=1e-12))
        for output, target in _compared(outputs, targets)
    ]
    return torch.stack(errors).sum(0)


def has_grown(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether the same images' losses have grown, and by more than chance.

    Few images have most of the loss, so that a mean over some hundred is noisy.
    """
    if not bool(torch.isfinite(after).all()):
        return True
    more = (after - before).double()
    if len(more) < 2:
        return bool(more.sum() > 0)
    return bool(more.mean() > STANDARD_ERRORS * more.std() / len(more) ** 0.5)


def is_logits(targets: Any) -> bool:
    """Whether outputs are those of a classifier: one matrix, (images, classes)."""
    return isinstance(targets, torch.Tensor) and targets.dim() == 2 and targets.shape[1] > 1


def _compared(outputs: Any, targets: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors of floating point with what they should be."""
    pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(targets), strict=True)
    return [
        (output, target)
        for output, target in pairs
        if isinstance(target, torch.Tensor) and target.is_floating_point()
    ]


def check_logits(output: Any, batch: int) -> torch.Tensor:
    """The output of a classifier, if it is that.

    Raises:
        SubbyteError: It is not one float tensor of shape (batch, classes).
    """
    if not isinstance(output, torch.Tensor):
        kind = type(output).__name__
        raise SubbyteError(
            f"the model returns a {kind} and not logits: a classifier returns one tensor of shape "
            "(batch, classes), so wrap the model in a module that returns it"
        )
    if output.dim() != 2 or output.shape[0] != batch or not output.is_floating_point():
        raise SubbyteError(
            f"the model returns a {output.dtype} tensor of shape {tuple(output.shape)} for a batch "
            f"of {batch} and not logits: a classifier returns shape (batch, classes)"
        )
    return output


def label_loss(outputs: Any, targets: Any) -> torch.Tensor:
    """Mean cross-entropy of logits (images, classes) with the labels (images,).

    Raises:
        SubbyteError: The outputs are not logits, or a label is not a class of the model.
    """
    labels = torch.as_tensor(targets)
    logits = check_logits(outputs, len(labels))
    classes = logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise SubbyteError(
            f"the labels go from {int(labels.min())} to {int(labels.max())} and the model has "
            f"{classes} classes: give labels from 0 to {classes - 1}, or none"
        )
    return torch.nn.functional.cross_entropy(logits, labels.to(logits.device).long())
