"""What an error in a detector's raw outputs costs: in scores, and in boxes of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from subbyte.graph.output_loss import Args, OutputLoss, Term, squared

# Of a box's side, from its centre to its border: the energy that errors are compared with.
HALF = 0.5


@dataclass(frozen=True)
class Readable:
    """What raw outputs say, row by row, without order, thresholds or limits.

    Attributes:
        boxes: [N, B, 4], in any unit.
        unit: [N, B, 4] or what broadcasts to it: what an error as large as the box's side is.
        scores: [N, B, classes] after their activation, without the background.
    """

    boxes: Tensor
    unit: Tensor
    scores: Tensor


Read = Callable[[Any, Args], Readable | None]  # raw outputs and images; `None`: nothing is known


def detection_loss(read: Read) -> OutputLoss:
    """Squared errors of scores, and of boxes in units of their sides, by the float model's score.

    A box of the background costs nothing, however wrong its coordinates are; a score that rises
    there costs what it rises by.

    Args:
        read: Boxes and scores of raw outputs.
    """

    def terms(outputs: Any, targets: Any, args: Args) -> list[Term] | None:
        found, expected = read(outputs, args), read(targets, args)
        if found is None or expected is None:
            return None
        scores, unit = expected.scores.detach(), expected.unit.detach()
        offsets = (found.boxes - expected.boxes.detach()) / unit + HALF
        best = scores.amax(-1, keepdim=True)
        return [
            Term(offsets, torch.full_like(offsets, HALF), best),
            Term(found.scores, scores, scores.new_ones(())),
        ]

    return squared(terms)


def sides(corners: Tensor) -> Tensor:
    """Width and height, twice, of boxes [N, B, 4] in the corner form; at least a thousandth."""
    lengths = (corners[..., 2:] - corners[..., :2]).abs().clamp(min=1e-3)
    return lengths.repeat(1, 1, 2)


def of_anchors(
    scores_of: Callable[..., Tensor], offsets_per_side: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> OutputLoss:
    """The loss of a head that gives offsets [N, A, 4] from anchors, and logits.

    Args:
        scores_of: From all but the offsets, in their order, to scores.
        offsets_per_side: How large an offset is that moves a box by its anchor's side.
    """

    def read(outputs: Any, args: Args) -> Readable | None:
        del args
        leaves = pytree.tree_leaves(outputs)
        rows = [x for x in leaves if isinstance(x, Tensor) and x.dim() == 3]
        places = [i for i, x in enumerate(rows) if x.shape[2] == 4]
        if len(rows) != len(leaves) or not places or len({x.shape[1] for x in rows}) != 1:
            return None
        offsets = rows.pop(places[0])
        if not rows:
            return None
        return Readable(offsets, offsets.new_tensor(offsets_per_side), scores_of(*rows))

    return detection_loss(read)
