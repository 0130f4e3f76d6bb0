"""Whether a parameter is still what it was: a hash of each tensor of a captured model."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprints(model: nn.Module) -> dict[str, str]:
    """SHA-256 (first 16 hex digits) of every floating-point tensor, by its qualified name."""
    return {
        name: _hash(value)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }


def _hash(value: torch.Tensor) -> str:
    data = (
        value.detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        .reshape(-1)
        .view(torch.uint8)
        .numpy()
    )
    return hashlib.sha256(data.tobytes()).hexdigest()[:16]
