"""Images in chunks, of which some judge what was fitted to the others."""

from __future__ import annotations

import torch

from subbyte.graph.batch import EVERY, IMAGES_AT_ONCE, is_held_out


def chunks(count: int) -> list[slice]:
    """All of so many images in chunks, as many as there have to be for some to be held out."""
    size = min(IMAGES_AT_ONCE, max(1, count // EVERY))
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def held_out_images(count: int) -> torch.Tensor:
    """Which of so many images judge; none where there are fewer than `EVERY`."""
    if count < EVERY:
        return torch.zeros(0, dtype=torch.int64)
    judging = [chunk for i, chunk in enumerate(chunks(count)) if is_held_out(i)]
    return torch.cat([torch.arange(chunk.start, chunk.stop) for chunk in judging])
