"""Whether a parameter is still what it was: a hash of each tensor of a captured model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from subbyte.graph.float_model import parameter_name, region_of
from subbyte.graph.operators import get_tensor


def fingerprints(model: nn.Module, regions: Iterable[str]) -> dict[str, str]:
    """SHA-256 (first 16 hex digits) of every floating-point tensor, by its qualified name.

    Args:
        model: A model whose regions are graphs.
        regions: The regions' names. What their graphs read counts too where it is neither a
            parameter nor a buffer, as a tensor that the user's code keeps as an attribute.
    """
    tensors = dict(model.state_dict())
    for name in regions:
        region = region_of(model, name)
        for node in region.graph.find_nodes(op="get_attr"):
            tensors.setdefault(parameter_name(name, str(node.target)), get_tensor(region, node))
    return {name: _hash(value) for name, value in tensors.items() if value.is_floating_point()}


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
