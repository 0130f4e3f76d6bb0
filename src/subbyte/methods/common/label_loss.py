"""How wrong a classifier's outputs are by labels."""

from __future__ import annotations

from typing import Any

import torch

from subbyte.errors import SubbyteError


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
