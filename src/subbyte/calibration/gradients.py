"""How much errors in each activation change the model's outputs, by gradients on some images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from subbyte.graph.batch import batch_size, images_of_pixels, in_chunks
from subbyte.numerics.value_gradients import ValueGradients
from subbyte.placement.simulation import Simulation
from subbyte.utils.progress import Progress

IMAGES = 64
MOST_IMAGES, FEWEST_IMAGES = 8, 4  # whose intermediate results are kept at a time
PIXELS_IN_MEMORY = 204_800  # of these, with which they are fewer


def value_gradients(
    simulation: Simulation,
    extremes: Mapping[str, tuple[float, float]],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[str, ValueGradients]:
    """For some activations what a squared error in their values costs by the model's output loss.

    The first `IMAGES` images do: gradients differ more within one than between.

    Args:
        simulation: Weights may be quantized; activations are in float.
        extremes: Key → the lowest and the highest value of the activation.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    found = {key: ValueGradients(*ends) for key, ends in extremes.items()}
    at_once = images_of_pixels(next(iter(batches), ()), PIXELS_IN_MEMORY)
    at_once = min(max(at_once, FEWEST_IMAGES), MOST_IMAGES)
    chunks = list(in_chunks(batches, IMAGES, at_once))
    with ExitStack() as hooks, torch.enable_grad():
        for key, gradients in found.items():
            handle = simulation.quantizer(key).register_forward_hook(_watch(gradients))
            hooks.callback(handle.remove)
        first, loss = 0, simulation.float_model.output_loss
        for args in progress.track(chunks, "weighing activations"):
            images = range(first, first + batch_size(args))
            total = loss.random_sum(simulation.raw(*args), args, images)
            first = images.stop
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
