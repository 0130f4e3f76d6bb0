"""Whether arguments are like those that a model was captured with."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.flow import WHOLE
from subbyte.placement.simulation import Simulation


def check_like_example(simulation: Simulation, args: tuple[Any, ...], name: str) -> None:
    """Refuse arguments of other shapes than a whole model's, beside the batch size.

    Args:
        simulation: The quantized model.
        args: A batch's arguments, as the model's.
        name: What they are called in the sentence, as "the example".

    Raises:
        SubbyteError: They have other shapes.
    """
    given, expected = _shapes(args), _shapes(simulation.example)
    if simulation.region_names == WHOLE and given != expected:
        raise SubbyteError(
            f"{name} has the shape {given} behind the batch size, and the model was captured with "
            f"{expected}: give a batch like those of the calibration"
        )


def _shapes(args: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The shapes of the tensors in `args` without their first dimension."""
    leaves = pytree.tree_leaves(args)
    return [tuple(leaf.shape[1:]) for leaf in leaves if isinstance(leaf, torch.Tensor)]
