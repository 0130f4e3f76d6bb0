"""What an SSD is trained on: default boxes matched to objects, and the MultiBox loss.

Liu et al. 2016, "SSD", section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from subbyte.models.ssd.boxes import encode

IOU = 0.5  # from which on a default box stands for an object
NEGATIVES = 3  # background boxes for each that stands for an object


def match(objects: Tensor, defaults: Tensor, iou: float = IOU) -> Tensor:
    """For each default box the index of the object that it stands for, or -1; int64 [A].

    It stands for the object that it overlaps most, if by `iou` or more; and each object's best
    default box stands for it whatever the overlap, the last such object's where it is the best of
    several.

    Args:
        objects: [G, 4] in the corner form.
        defaults: [A, 4] in the corner form.
        iou: In (0, 1].
    """
    if len(objects) == 0:
        return torch.full((len(defaults),), -1, device=defaults.device)
    overlap = box_iou(objects, defaults)
    most, matched = overlap.max(dim=0)
    matched = torch.where(most >= iou, matched, -1)
    best = overlap.argmax(dim=1)
    forced = torch.full_like(matched, -1)
    # The largest index, and not a plain assignment, which is in no order on a GPU.
    forced.scatter_reduce_(0, best, torch.arange(len(objects), device=best.device), "amax")
    return torch.where(forced >= 0, forced, matched)


def multibox(
    regression: Tensor,
    logits: Tensor,
    targets: Sequence[tuple[Tensor, Tensor]],
    defaults: tuple[Tensor, Tensor],
    variances: tuple[float, float],
    beta: float = 1.0,
) -> dict[str, Tensor]:
    """The two losses of a batch, each a sum over boxes divided by the number of matched ones.

    `bbox_regression`: smooth L1 of the regressions of matched default boxes; `classification`:
    cross entropy of the logits of these and, in each image, of thrice as many others, those with
    the highest.

    Args:
        regression: [N, A, 4].
        logits: [N, A, C].
        targets: Of each image the objects, [G, 4] in the corner form, relative, and their labels,
            [G].
        defaults: The default boxes in the centre and in the corner form.
        variances: Of centres and of sides.
        beta: The error from which on smooth L1 is linear.
    """
    centred, corners = defaults
    wanted, labels = [], []
    for objects, classes in targets:
        matched = match(objects, corners)
        # -1 takes the row that is appended: any box, and the background.
        padded = torch.cat([objects, corners[:1]])
        wanted.append(padded[matched])
        labels.append(torch.cat([classes, classes.new_zeros(1)])[matched])
    label = torch.stack(labels)
    positive = label > 0
    count = positive.sum().clamp(min=1)
    target = encode(torch.stack(wanted), centred, variances)
    box_loss = F.smooth_l1_loss(regression[positive], target[positive], reduction="sum", beta=beta)
    entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
    entropy = entropy.view_as(label)
    chosen = positive | _hardest(entropy.detach(), positive)
    return {"bbox_regression": box_loss / count, "classification": entropy[chosen].sum() / count}


def _hardest(entropy: Tensor, positive: Tensor) -> Tensor:
    """In each row, thrice as many of the others as are positive, those of the highest entropy."""
    others = entropy.masked_fill(positive, float("-inf"))
    order = others.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1, stable=True)
    hardest: Tensor = rank < NEGATIVES * positive.sum(dim=1, keepdim=True)
    return hardest & ~positive
