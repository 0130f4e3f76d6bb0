"""How much errors in each activation change the model's outputs, by gradients on some images."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte.graph.batch import batch_size, in_batch, portions
from subbyte.numerics.fake_quantize import FakeQuantize, State
from subbyte.numerics.value_gradients import ValueGradients
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress

IMAGES = 64
AT_ONCE = 8  # images whose intermediate results are in memory at a time


def sensitivities(
    captured: Captured,
    grids: list[FakeQuantize],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
    weights: State = State.QUANTIZE,
) -> dict[FakeQuantize, ValueGradients]:
    """For each of `grids`, which have statistics: mean squared gradients of the model's outputs.

    Weights are on their grids (or in another state), activations in float. The gradient is that of
    the sum of all outputs with random signs, whose square is in expectation the sum of the squared
    gradients of each one (Hutchinson 1990). The first `IMAGES` images do: gradients differ more
    within one than between.
    """
    found = {}
    for grid in grids:
        assert grid.statistics is not None
        found[grid] = ValueGradients(grid.statistics.low, grid.statistics.high)
    captured.set_state(weights, "weight")
    captured.set_state(State.OFF, "activation")
    parts = list(portions(batches, IMAGES, AT_ONCE))
    with ExitStack() as hooks, captured.holding_weights(), torch.enable_grad():
        for grid, sensitivity in found.items():
            hooks.enter_context(grid.register_forward_hook(_watch(sensitivity)))
        first = 0
        for args in progress.track(parts, "weighing activations"):
            total = random_sum(captured.raw(*args), range(first, first + batch_size(args)))
            first += batch_size(args)
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    return found


def _watch(sensitivity: ValueGradients) -> Any:
    def hook(module: FakeQuantize, args: Any, x: torch.Tensor) -> torch.Tensor:
        del module, args
        if not x.requires_grad:  # the model's own input, or what hangs on no activation before it
            x = x.detach().requires_grad_()
        values = x.detach()  # with x itself the hook would keep x, and x the hook, for ever
        x.register_hook(lambda gradient: sensitivity.update(values, gradient))  # type: ignore[no-untyped-call]
        return x

    return hook


def random_sum(outputs: Any, images: range) -> torch.Tensor:
    """The sum of all numbers in `outputs`, each with a random sign that depends on its image alone.

    images: the numbers of those that the outputs are of.
    """
    generators = [torch.Generator().manual_seed(image) for image in images]
    total = torch.zeros(())
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            total = total.to(leaf) + (leaf * _signs(leaf, generators)).sum()
    return total


def _signs(leaf: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """Random signs in the shape of `leaf`, one generator an image where it has a row for each."""
    if not in_batch(leaf, len(generators)):
        return (torch.randint(0, 2, leaf.shape, generator=generators[0]) * 2 - 1).to(leaf)
    rows = [torch.randint(0, 2, leaf.shape[1:], generator=own) for own in generators]
    return (torch.stack(rows) * 2 - 1).to(leaf)
