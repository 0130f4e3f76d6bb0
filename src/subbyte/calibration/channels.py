"""How far the ranges of channels differ, and by what they are scaled to be alike."""

from __future__ import annotations

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


@torch.no_grad()
def with_like_channels(
    float_model: FloatModel, batches: Iterable[tuple[Any, ...]], progress: Progress
) -> FloatModel:
    """The same model, in which channels that differ by much in range are scaled alike.

    Where a channel's largest magnitude is less than an eighth of the largest one's, all channels of
    the tensor are divided by the power of two that is nearest to their share of it. The first
    `IMAGES` images do. A model without such tensors is given back as it is.

    Args:
        float_model: The model.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    found = sites(float_model)
    if not found:
        return float_model
    largest = _largest(float_model, found, batches, progress)
    factors = {key: _factors(value) for key, value in largest.items()}
    return balanced(float_model, {k: f for k, f in factors.items() if float(f.min()) <= 1 / APART})


def _largest(
    float_model: FloatModel,
    found: list[Site],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """The largest magnitude of each channel, (channels,), by the key of a site that ran."""
    largest: dict[str, torch.Tensor] = {}
    by_node = {(site.region, site.node, site.side): site.key for site in found}

    def observe(node: Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        for side, value in ((INPUT, inputs), (RESULT, outputs)):
            key = by_node.get((*node, side))
            if key is not None and value.numel():
                most = value.abs().transpose(0, 1).flatten(1).amax(1)
                largest[key] = torch.maximum(most, largest.get(key, most))

    chunks = list(in_chunks(batches, IMAGES, IMAGES_AT_ONCE))
    with observed(float_model, {(site.region, site.node) for site in found}, observe):
        for args in progress.track(chunks, "ranges of channels"):
            float_model(*args)
    return largest


def _factors(largest: torch.Tensor) -> torch.Tensor:
    """Powers of two near each channel's share of the largest magnitude, at most 1."""
    share = (largest / largest.max().clamp(min=TINY)).clamp(min=1 / MOST)
    share = torch.where(largest > 0, share, torch.ones_like(share))
    return 2.0 ** share.log2().round()
