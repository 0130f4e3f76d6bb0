"""The images that a search over a whole network looks at, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch.utils import _pytree as pytree

from subbyte.data.batches import ArgumentsOf, Batch
from subbyte.errors import SubbyteError
from subbyte.graph.batch import cut, parts
from subbyte.methods.scale_search.network import Portion

IMAGES_AT_ONCE = 32

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


def _portions(batches: ArgumentsOf, images: int) -> Iterator[Batch]:
    """The first so many images, with their targets, a few at a time."""
    for batch, chosen in parts(batches.labelled(), lambda batch: batch.size, images, AT_ONCE):
        args = cut(batch.args, chosen)
        targets = None if batch.targets is None else batch.targets[chosen]
        yield Batch(args, targets, chosen.stop - chosen.start)
