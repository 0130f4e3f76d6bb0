"""From a network's numbers for classes to scores."""

from __future__ import annotations

from torch import Tensor

from subbyte.detection import Outputs


def scores_of(outputs: Outputs, classes: Tensor, objectness: Tensor | None = None) -> Tensor:
    """Scores [N, B, classes] after the activation, without the background.

    Args:
        outputs: What the network gives.
        classes: [N, B, classes], and perhaps the background.
        objectness: [N, B, 1].
    """
    by = outputs.scores_by
    scores = classes.softmax(-1) if by == "softmax" else _activated(classes, by)
    if outputs.without == "first":
        scores = scores[..., 1:]
    elif outputs.without == "last":
        scores = scores[..., :-1]
    if objectness is None:
        return scores
    return scores * _activated(objectness, by)


def _activated(values: Tensor, by: str) -> Tensor:
    return values if by == "none" else values.sigmoid()
