"""Detectors whose own code makes boxes, around a network that a runtime computes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.detectors.common.copies import sharing_copy
from subbyte.graph.float_model import Regional


class RunsFile(Protocol):
    """A file in a runtime."""

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch."""


def computed_by(session: RunsFile, captured: Regional) -> nn.Module:
    """A copy of a model whose one region a runtime computes; its own code runs around it.

    Args:
        session: Runs the file with the model's raw outputs.
        captured: The captured model, of one region.
    """
    (name,) = captured.region_names
    model = sharing_copy(captured.model)
    region: Any = model.get_submodule(name)

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        outputs = session.run(*(x.detach().cpu().numpy() for x in inputs))
        tensors = [torch.from_numpy(output).to(inputs[0].device) for output in outputs]
        return pytree.tree_unflatten(tensors, region._out_spec)

    region.forward = forward
    return model
