"""How much errors in each activation change the model's outputs, by gradients on some images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.graph.batch import batch_size, in_batch, in_chunks
from subbyte.numerics.value_gradients import ValueGradients
from subbyte.placement.simulation import Simulation
from subbyte.utils.progress import Progress

IMAGES = 64
IMAGES_IN_MEMORY = 8  # whose intermediate results are kept at a time


def value_gradients(
    simulation: Simulation,
    extremes: Mapping[str, tuple[float, float]],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[str, ValueGradients]:
    """For some activations the mean squared gradients of the model's outputs, by their values.

    The gradient is that of the sum of all outputs with random signs, whose square is in expectation
    the sum of the squared gradients of each one (Hutchinson 1990). The first `IMAGES` images do:
    gradients differ more within one than between.

    Args:
        simulation: Weights may be quantized; activations are in float.
        extremes: Key → the lowest and the highest value of the activation.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    found = {key: ValueGradients(*ends) for key, ends in extremes.items()}
    chunks = list(in_chunks(batches, IMAGES, IMAGES_IN_MEMORY))
    with ExitStack() as hooks, torch.enable_grad():
        for key, gradients in found.items():
            handle = simulation.quantizer(key).register_forward_hook(_watch(gradients))
            hooks.callback(handle.remove)
        first = 0
        for args in progress.track(chunks, "weighing activations"):
            total = random_sum(simulation.raw(*args), range(first, first + batch_size(args)))
            first += batch_size(args)
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    return found


def _watch(gradients: ValueGradients) -> Any:
    def hook(module: nn.Module, args: Any, x: torch.Tensor) -> torch.Tensor:
        del module, args
        if not x.requires_grad:  # the model's own input, or what hangs on no activation before it
            x = x.detach().requires_grad_()
        values = x.detach()  # with x itself the hook would keep x, and x the hook, for ever
        x.register_hook(lambda gradient: gradients.update(values, gradient))  # type: ignore[no-untyped-call]
        return x

    return hook


def random_sum(outputs: Any, images: range) -> torch.Tensor:
    """The sum of all numbers in `outputs`, each with a random sign that depends on its image alone.

    Args:
        outputs: What a model gives for a batch.
        images: The numbers of the batch's images.
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
