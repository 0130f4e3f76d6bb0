"""Scales and biases of a whole network tuned together by gradients, its integers as they are.

What the network gives is compared with the float network; step sizes are learned as in Esser et al.
2020, "Learned Step Size Quantization", but as logarithms, so that one rate suits all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.graph.biases import bias_of
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import BiasQuantize, FakeQuantize, State
from subbyte.grid.spec import along
from subbyte.joint.objective import divergence
from subbyte.progress import Progress

AT_ONCE = 32  # images


@dataclass(frozen=True)
class Rates:
    """Adam's rates: of log scales of activations and of weights, and of biases.

    One log scale a channel where a weight has one grid a channel.
    """

    activations: float = 3e-3
    weights: float = 1e-3
    biases: float = 1e-3


@dataclass(frozen=True)
class Lessons:
    """Inputs, each (images, …), and the float network's outputs for them, and mirrored perhaps.

    `outputs` are the leaves of a structure of the given `form`.
    """

    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    form: Any


class _Parameters:
    """Log scales and biases, in place in a captured network while it is tuned."""

    def __init__(self, captured: Captured) -> None:
        self.weights: list[tuple[FakeQuantize, torch.Tensor, nn.Parameter]] = []
        self.activations: list[tuple[FakeQuantize, nn.Parameter]] = []
        for tensor, quantizer in captured.quantizers():
            log = nn.Parameter(quantizer.scale.log())
            if tensor.role == "weight":
                weight = captured.weight(tensor)
                self.weights.append((quantizer, quantizer.levels(weight), log))
            else:
                self.activations.append((quantizer, log))
        self.biases = _biases(captured)

    def groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Adam's groups."""
        return [
            {"params": [log for _, log in self.activations], "lr": rates.activations},
            {"params": [log for _, _, log in self.weights], "lr": rates.weights},
            {"params": self.biases, "lr": rates.biases},
        ]

    @contextmanager
    def in_place(self, captured: Captured) -> Iterator[None]:
        """While it lasts, the network computes with these, and gradients reach them."""
        rounding = [m for m in captured.modules() if isinstance(m, BiasQuantize)]
        try:
            for quantizer, levels, log in self.weights:
                quantizer.instead = _Scaled(levels, log, quantizer.spec.axis)
            for quantizer, log in self.activations:
                quantizer.instead = _Stepped(quantizer, log)
            for module in rounding:
                module.exact = True
            for bias in self.biases:
                bias.requires_grad_(True)
            yield
        finally:
            for grid in [w[0] for w in self.weights] + [a[0] for a in self.activations]:
                grid.instead = None
            for module in rounding:
                module.exact = False
            for bias in self.biases:
                bias.requires_grad_(False)
                bias.grad = None

    @torch.no_grad()
    def keep(self, captured: Captured) -> None:
        """Give the quantizers what was found; every integer stays what it was."""
        for quantizer, log in self.activations:
            quantizer.scale.copy_(log.exp())
        tensors = {id(q): t for t, q in captured.quantizers("weight")}
        for quantizer, levels, log in self.weights:
            weight = captured.weight(tensors[id(quantizer)])
            quantizer.scale.copy_(log.exp())
            quantizer.offset = levels - weight / along(quantizer.scale, weight, quantizer.spec.axis)


class _Scaled:
    """A weight of fixed integers and a learned scale."""

    def __init__(self, levels: torch.Tensor, log: nn.Parameter, axis: int | None) -> None:
        self.levels, self.log, self.axis = levels, log, axis

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return self.levels * along(self.log.exp(), weight, self.axis)


class _Stepped:
    """An activation on a grid with a learned scale."""

    def __init__(self, grid: FakeQuantize, log: nn.Parameter) -> None:
        self.log = log
        zero_point = int(grid.zero_point)
        self.low, self.high = grid.spec.low - zero_point, grid.spec.high - zero_point

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _FakeQuantize.apply(x, self.log, self.low, self.high)
        return output


class _FakeQuantize(torch.autograd.Function):
    """Q(x; s) with the gradient of x where nothing is clipped, and that of log s.

    s · dQ/ds is Q(x) − x inside of the grid and Q(x) beyond.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log: torch.Tensor, low: int, high: int) -> torch.Tensor:
        scale = log.exp()
        level = torch.mul(x, scale.reciprocal()).round_()
        y = level.clamp(low, high)
        stops = level.sub_(y).abs_().clamp_(max=1)  # 1 where a value is clipped, by whole levels
        y.mul_(scale)
        ctx.save_for_backward(x, y, stops)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, y, stops = ctx.saved_tensors
        passed = torch.addcmul(gradient, gradient, stops, value=-1)
        total = _dot(gradient, y) - _dot(passed, x)
        return passed, total[None], None, None


@torch.no_grad()
def lessons_of(captured: Captured, batches: Any, images: int, *, mirror: bool) -> Lessons:
    """The first so many images, mirrored ones behind them if asked, and their float outputs.

    The network's biases are still those of the float network.
    """
    inputs = _joined(batches, images)
    count = len(inputs[0])
    parts = []
    with captured.in_float():
        for start in range(0, count * (1 + mirror), AT_ONCE):
            chosen = torch.arange(start, min(start + AT_ONCE, count * (1 + mirror)))
            leaves, form = pytree.tree_flatten(captured(*_images(inputs, chosen, count)))
            parts.append(leaves)
    return Lessons(inputs, [torch.cat(column) for column in zip(*parts, strict=True)], form)


def tune(
    captured: Captured,
    lessons: Lessons,
    steps: int,
    batch: int,
    rates: Rates,
    progress: Progress,
) -> bool:
    """Tune all scales and biases for so many steps; return whether all went well.

    If the loss becomes infinite or NaN, all is as it was.
    """
    generator = torch.Generator().manual_seed(captured.recipe.seed + 1)
    parameters = _Parameters(captured)
    before = [bias.clone() for bias in parameters.biases]
    captured.set_state(State.QUANTIZE)
    adam = torch.optim.Adam(parameters.groups(rates))
    warm = max(1.0, 0.05 * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda i: min(1.0, (i + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    inputs, well = lessons.inputs, True
    count, total = len(inputs[0]), len(lessons.outputs[0])
    waiting = torch.zeros(0, dtype=torch.int64)
    with torch.enable_grad():
        for _ in progress.track(range(steps), "tuning scales"):
            if len(waiting) < min(batch, total):
                waiting = torch.randperm(total, generator=generator)
            chosen, waiting = waiting[:batch], waiting[batch:]
            args = _images(inputs, chosen, count)
            targets = pytree.tree_unflatten([x[chosen] for x in lessons.outputs], lessons.form)
            with parameters.in_place(captured):
                loss = divergence(captured(*args), targets)
                if not math.isfinite(float(loss.detach())):
                    well = False
                    break
                adam.zero_grad()
                torch.autograd.backward(loss)
                adam.step()
            schedule.step()
    if well:
        parameters.keep(captured)
    else:
        for bias, value in zip(parameters.biases, before, strict=True):
            bias.data.copy_(value)
    return well


def _images(inputs: list[torch.Tensor], chosen: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Some images, those beyond `count` mirrored."""
    found = [x[chosen % count] for x in inputs]
    flipped = chosen >= count
    for x in found:
        if x.dim() == 4 and flipped.any():
            x[flipped] = x[flipped].flip(3)
    return found


def _biases(captured: Captured) -> list[torch.Tensor]:
    """The biases of layers with a weight on a grid, each once."""
    found: dict[int, torch.Tensor] = {}
    for region in captured.region_names:
        module = captured.region(region)
        names = {node.name: node for node in module.graph.nodes}
        for layer in captured.layers:
            if layer.region == region and layer.weight is not None:
                bias = bias_of(module, names[layer.node])
                if bias is not None:
                    found.setdefault(id(bias), bias)
    return list(found.values())


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.dot(one.reshape(-1), other.reshape(-1))


def _joined(batches: Any, images: int) -> list[torch.Tensor]:
    """The first so many images of all batches, one tensor for each of the model's arguments."""
    parts: list[list[torch.Tensor]] = []
    left = images
    for args in batches:
        leaves = pytree.tree_leaves(args)
        parts.append([leaf[:left] for leaf in leaves])
        left -= len(leaves[0])
        if left <= 0:
            break
    return [torch.cat(column) for column in zip(*parts, strict=True)]
