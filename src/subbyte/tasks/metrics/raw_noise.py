"""The noise that quantization makes in a detector's raw outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from subbyte.graph.float_model import Regional


@torch.no_grad()
def raw_sqnr_db(
    quantized: Regional, float_model: Regional, batches: Iterable[Mapping[str, Any]], device: str
) -> float | None:
    """Energy of the float raw outputs over that of the error, in dB.

    Args:
        quantized: The simulation.
        float_model: The float model, of the same regions.
        batches: Each with a list of images as "inputs".
        device: Where both models lie.

    Returns:
        `None` without any error, and where the outputs are not of the same shape, as of proposals.
    """
    signal = noise = 0.0
    for batch in batches:
        inputs = [image.to(device) for image in batch["inputs"]]
        outputs, exact = _tensors(quantized.raw(inputs)), _tensors(float_model.raw(inputs))
        if [x.shape for x in outputs] != [x.shape for x in exact]:
            return None
        for x, y in zip(exact, outputs, strict=True):
            signal += float(x.double().square().sum())
            noise += float((x.double() - y.double()).square().sum())
    return None if noise == 0 or signal == 0 else float(10 * np.log10(signal / noise))


def _tensors(outputs: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]
