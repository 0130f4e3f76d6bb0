"""Whether a parameter is still what it was: a hash of each tensor of a captured model."""

from __future__ import annotations

import hashlib

import torch

from subbyte.placement.simulation import QUANTIZERS, Captured


def fingerprints(captured: Captured) -> dict[str, str]:
    """SHA-256 (first 16 hex digits) of every floating-point parameter, by its qualified name."""
    return {name: _hash(value) for name, value in float_tensors(captured).items()}


def float_tensors(captured: Captured) -> dict[str, torch.Tensor]:
    """The model's own tensors, without what belongs to quantizers."""
    return {
        name: value
        for name, value in captured.model.state_dict().items()
        if value.is_floating_point() and QUANTIZERS not in name.split(".")
    }


def _hash(value: torch.Tensor) -> str:
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.tobytes()).hexdigest()[:16]
