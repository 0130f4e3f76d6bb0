"""The images that a search over a whole network looks at, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

from subbyte.data.batches import ArgumentsOf, Batch
from subbyte.errors import SubbyteError
from subbyte.graph.batch import IMAGES_AT_ONCE, cut, parts
from subbyte.graph.float_model import FloatModel

Targets = Literal["auto", "labels", "outputs"]
NodeValues = dict[str, Any]  # of some nodes of a graph, by their names


@dataclass
class Chunk:
    """Some images.

    Attributes:
        args: The model's positional arguments.
        targets: What its outputs are compared with.
        images: How many.
        kept: At the best setting so far, the values alive in front of some blocks, by the block's
            number.
        loss: At the best setting so far, the mean loss.
    """

    args: tuple[Any, ...]
    targets: Any
    images: int
    kept: dict[int, NodeValues] = field(default_factory=dict)
    loss: float = math.nan


def chunks_of(
    float_model: FloatModel, batches: ArgumentsOf, images: int, targets: Targets
) -> tuple[list[Chunk], bool]:
    """The first so many images in chunks with their targets, and whether these are labels.

    Args:
        float_model: The model.
        batches: The calibration images.
        images: How many of them, the first ones.
        targets: "labels", the float model's "outputs", or "auto": labels where all batches have
            them.

    Raises:
        SubbyteError: Labels were asked for and a batch has none, or outputs are of proposals.
    """
    found = list(_cut_batches(batches, images))
    without = sum(batch.targets is None for batch in found)
    if targets == "labels" and without:
        raise SubbyteError(
            "targets is 'labels' and the calibration has images without labels: give batches of "
            "(inputs, labels), or targets: outputs"
        )
    if targets != "outputs" and not without:
        return [Chunk(batch.args, batch.targets, batch.size) for batch in found], True
    with torch.no_grad():
        chunks = [Chunk(x.args, float_model.raw(*x.args), x.size) for x in found]
    if len(float_model.region_names) > 1:
        leaves = [(x, chunk) for chunk in chunks for x in pytree.tree_leaves(chunk.targets)]
        if any(len(x) != chunk.images for x, chunk in leaves if isinstance(x, torch.Tensor)):
            raise SubbyteError(
                "lapq compares what a detector's heads give for each image, and one of this "
                "model's gives something for each proposal: choose another method"
            )
    return chunks, False


def _cut_batches(batches: ArgumentsOf, images: int) -> Iterator[Batch]:
    """The first so many images, with their targets, a few at a time."""
    found = parts(batches.labelled(), lambda batch: batch.size, images, IMAGES_AT_ONCE)
    for batch, chosen in found:
        args = cut(batch.args, chosen)
        targets = None if batch.targets is None else batch.targets[chosen]
        yield Batch(args, targets, chosen.stop - chosen.start)
