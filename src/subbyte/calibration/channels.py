"""How far the ranges of channels differ, and by what they are scaled to be alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from subbyte.calibration.biased_layers import Node, observed
from subbyte.graph.balance import INPUT, RESULT, Site, balanced, sites
from subbyte.graph.batch import IMAGES_AT_ONCE, in_chunks
from subbyte.graph.float_model import FloatModel
from subbyte.numerics.qspec import TINY
from subbyte.utils.progress import Progress

IMAGES = 32
APART = 8.0  # times smaller than the largest channel: then channels are scaled
MOST = 2.0**10  # a factor
ROOM = 2.0  # times what was seen of a channel, which other images go beyond
VALUES = 4096  # of a channel must have been seen, so that its range is known
SIDE = 0.25  # of the longer side of a range, which the shorter one may have

Ends = tuple[torch.Tensor, torch.Tensor]  # each (channels,)


@torch.no_grad()
def with_like_channels(
    float_model: FloatModel, batches: Iterable[tuple[Any, ...]], progress: Progress
) -> FloatModel:
    """The same model, in which channels that differ by much in range are scaled alike.

    Each channel is divided by the least power of two with which it stays within the range of the
    whole tensor, where some channel of the tensor can be divided by an eighth or less, and where at
    least `VALUES` values of each channel are seen on the first `IMAGES` images. A model without
    such tensors is given back as it is.

    Args:
        float_model: The model.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    found = sites(float_model)
    if not found:
        return float_model
    ends = _ends(float_model, found, batches, progress)
    factors = {key: _factors(*both) for key, both in ends.items()}
    return balanced(float_model, {k: f for k, f in factors.items() if float(f.min()) <= 1 / APART})


def _ends(
    float_model: FloatModel,
    found: list[Site],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[str, Ends]:
    """The least and the most of each channel, by the key of a site; 0 lies between.

    Sites of which too few values were seen are left out.
    """
    ends: dict[str, Ends] = {}
    counts: Counter[str] = Counter()
    by_node = {(site.region, site.node, site.side): site.key for site in found}

    def observe(node: Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        for side, value in ((INPUT, inputs), (RESULT, outputs)):
            key = by_node.get((*node, side))
            if key is not None and value.numel():
                rows = value.transpose(0, 1).flatten(1)
                low, high = rows.aminmax(dim=1)
                counts[key] += rows.shape[1]
                before = ends.get(key, (torch.zeros_like(low), torch.zeros_like(high)))
                ends[key] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

    chunks = list(in_chunks(batches, IMAGES, IMAGES_AT_ONCE))
    with observed(float_model, {(site.region, site.node) for site in found}, observe):
        for args in progress.track(chunks, "ranges of channels"):
            float_model(*args)
    return {key: both for key, both in ends.items() if counts[key] >= VALUES}


def _factors(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Powers of two, at most 1, by which channels fit into the range of the whole tensor.

    The shorter side of this range grows to `SIDE` of the longer one. Without that, channels of
    SiLU, all of which reach its minimum, could not be divided; with more of it, the integers of
    the largest channel would become fewer. A channel gets room for `ROOM` times what was seen of
    it: the range of a tensor is known better than that of each channel.
    """
    least, most = low.min(), high.max()
    least, most = torch.minimum(least, -SIDE * most), torch.maximum(most, -SIDE * least)
    share = torch.maximum(low / least.clamp(max=-TINY), high / most.clamp(min=TINY))
    share = torch.where(share > 0, (ROOM * share).clamp(min=1 / MOST, max=1), 1.0)
    return 2.0 ** share.log2().ceil()
