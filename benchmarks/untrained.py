"""Models without trained weights, and images, that behave as trained ones and photographs do.

For benchmarks/models.py and benchmarks/detectors.py, which look for faults of placement and files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from subbyte.data.preprocessing import Preprocessing
from subbyte.placement.simulation import Simulation, simulate


def pictures(count: int, size: int, preprocessing: Preprocessing) -> torch.Tensor:
    """Random images with the 1/f spectrum and the related colours of photographs, normalized."""
    generator = torch.Generator().manual_seed(0)
    across = torch.fft.rfftfreq(size)[None, :].square()
    frequency = (torch.fft.fftfreq(size)[:, None].square() + across).sqrt().clamp(min=1 / size)
    noise = torch.randn(count, 4, size, size, generator=generator)
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(size, size))
    smooth = smooth / smooth.std((2, 3), keepdim=True)
    colours = smooth[:, :1] + 0.5 * smooth[:, 1:]
    contrast = 0.1 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    light = 0.3 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    shown = (light + contrast * colours).clamp(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    normalized: torch.Tensor = (shown - mean) / std
    return normalized


@torch.no_grad()
def as_if_trained(module: nn.Module, images: Any) -> None:
    """Random weights that let images through, and batch norms that know their statistics.

    Weights have the variance of He et al. 2015, "Delving Deep into Rectifiers" (gain √2 for
    convolutions, 1 for matrices). Parameters that all begin at one value (norms' scales at 1 or 0,
    layer scales at 1e-6, shifts at 0) would hide what they do, and are drawn: scales from 0.5 …
    1.5, shifts with a deviation of 0.1. Running means and variances become those of `images`, a
    batch as the module takes it.
    """
    generator = torch.Generator().manual_seed(1)
    shifts = {id(part.bias) for part in module.modules() if getattr(part, "bias", None) is not None}
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            draw_weight(part.weight, 1 if isinstance(part, nn.Linear) else 2, generator)
    for parameter in module.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if id(parameter) in shifts:
                parameter.normal_(0, 0.1, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    module(images)
    for hook in hooks:
        hook.remove()


def take_statistics(norm: Any, inputs: tuple[torch.Tensor]) -> None:
    """Give a batch norm the mean and variance of what it is about to normalize.

    A channel that hardly varies is not blown up: no variance is below a tenth of the average.
    """
    values = inputs[0].transpose(0, 1).flatten(1)
    variance = values.var(1)
    norm.running_mean.copy_(values.mean(1))
    norm.running_var.copy_(variance.clamp(min=float(variance.mean()) / 10))


def draw_weight(weight: torch.Tensor, gain: float, generator: torch.Generator) -> None:
    """Independent numbers for a matrix; for a filter mostly a bump, as trained ones have it.

    Filters of independent numbers let pass what differs from pixel to pixel, noise above all, and
    a deep network of them tells no picture from another.
    """
    weight.normal_(0, math.sqrt(gain / weight[0].numel()), generator=generator)
    if weight.dim() != 4 or weight.shape[2] * weight.shape[3] == 1:
        return
    channels = torch.randn(*weight.shape[:2], 1, 1, generator=generator)
    if weight.shape[1] == 1:  # a channel by itself must not be near 0
        channels = channels.sign() * (0.5 + torch.rand(channels.shape, generator=generator))
    rows, columns = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in weight.shape[2:])
    bump = rows[:, None] * columns
    weight.mul_(0.3).add_(channels * bump / bump.sum() * math.sqrt(gain / weight.shape[1]))


def simulation_for(runtime: str, quantized: Simulation) -> Simulation:
    """The simulation of a runtime's own file, in which fewer tensors may be quantized."""
    placement = quantized.placement.for_target(runtime)
    return simulate(quantized.float_model, placement, quantized.params)


@contextmanager
def nudged(quantized: Simulation, seed: int = 2) -> Iterator[None]:
    """While it lasts, all that activations' quantizers get is off by a millionth, at random.

    Sums in float32 are as uncertain, whatever computes them. Where a value lies between two
    integers this decides which it becomes, and so from layer to layer: a runtime that computes
    right is as far from the simulation as the simulation so is from itself.
    """
    generator = torch.Generator().manual_seed(seed)

    def nudge(_: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        return inputs[0] * (1 + 1e-6 * torch.randn(inputs[0].shape, generator=generator))

    quantizers = [quantizer for _, quantizer in quantized.activations()]
    hooks = [quantizer.register_forward_pre_hook(nudge) for quantizer in quantizers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
