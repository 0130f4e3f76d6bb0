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

from subbyte.graph.batch import are_images
from subbyte.graph.biases import biased_layers
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import BiasQuantize, FakeQuantize, State
from subbyte.grid.spec import along
from subbyte.joint.objective import divergence
from subbyte.progress import Progress

AT_ONCE = 32  # images
HELD_OUT = 8  # of so many images, one is held out to judge by


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

    lists: which of the inputs the model takes as a list of images. `outputs` are the leaves of a
    structure of the given `form`.
    """

    inputs: list[torch.Tensor]
    lists: list[bool]
    outputs: list[torch.Tensor]
    form: Any

    @property
    def count(self) -> int:
        """How many images, mirrored ones not counted."""
        return len(self.inputs[0])

    def images(self, chosen: torch.Tensor) -> list[Any]:
        """The model's positional arguments for some images, those beyond `count` mirrored."""
        found: list[Any] = [x[chosen % self.count] for x in self.inputs]
        flipped = chosen >= self.count
        for x in found:
            if x.dim() == 4 and bool(flipped.any()):
                x[flipped] = x[flipped].flip(3)
        return [list(x) if apart else x for x, apart in zip(found, self.lists, strict=True)]

    def targets(self, images: torch.Tensor) -> Any:
        """The float network's outputs for some images, in their form."""
        return pytree.tree_unflatten([x[images] for x in self.outputs], self.form)


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
        self.biases = list({id(x.bias): x.bias for x in biased_layers(captured)}.values())

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
def lessons_of(captured: Captured, batches: Any, images: int, *, mirror: bool) -> Lessons | None:
    """The first so many images, mirrored ones behind them if asked, and their float outputs.

    The network's biases are still those of the float network. `None` where images differ in size,
    or where the outputs are not one row an image, as those of two-stage detectors.
    """
    joined = _joined(batches, images)
    if joined is None:
        return None
    lessons = Lessons(*joined, [], None)
    count = lessons.count
    parts = []
    with captured.in_float():
        for start in range(0, count * (1 + mirror), AT_ONCE):
            chosen = torch.arange(start, min(start + AT_ONCE, count * (1 + mirror)))
            leaves, form = pytree.tree_flatten(captured.raw(*lessons.images(chosen)))
            if not all(isinstance(x, torch.Tensor) and len(x) == len(chosen) for x in leaves):
                return None
            parts.append(leaves)
    outputs = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Lessons(lessons.inputs, lessons.lists, outputs, form)


def tune(
    captured: Captured,
    lessons: Lessons,
    steps: int,
    batch: int,
    rates: Rates,
    progress: Progress,
) -> bool:
    """Tune all scales and biases for so many steps; return whether that was kept.

    Every eighth image is held out. Where the loss on these is no lower afterwards, or a loss was
    infinite or NaN, all is as it was.
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
    count, total, well = lessons.count, len(lessons.outputs[0]), True
    order = torch.arange(total)
    held = order[:count][HELD_OUT - 1 :: HELD_OUT]
    learned = order[order % count % HELD_OUT != HELD_OUT - 1]
    at_first = _loss_of(captured, lessons, held)
    scales = [quantizer.scale.clone() for _, quantizer in captured.quantizers()]
    offsets = [quantizer.offset for _, quantizer in captured.quantizers()]
    waiting = torch.zeros(0, dtype=torch.int64)
    with torch.enable_grad():
        for _ in progress.track(range(steps), "tuning scales"):
            if len(waiting) < min(batch, len(learned)):
                waiting = learned[torch.randperm(len(learned), generator=generator)]
            chosen, waiting = waiting[:batch], waiting[batch:]
            args = lessons.images(chosen)
            targets = lessons.targets(chosen)
            with parameters.in_place(captured):
                loss = divergence(captured.raw(*args), targets)
                if not math.isfinite(float(loss.detach())):
                    well = False
                    break
                adam.zero_grad()
                torch.autograd.backward(loss)
                adam.step()
            schedule.step()
    if well:
        parameters.keep(captured)
        well = not _loss_of(captured, lessons, held) >= at_first or not len(held)
    if not well:
        for bias, value in zip(parameters.biases, before, strict=True):
            bias.data.copy_(value)
        grids = [quantizer for _, quantizer in captured.quantizers()]
        for grid, scale, offset in zip(grids, scales, offsets, strict=True):
            grid.scale.copy_(scale)
            grid.offset = offset
    return well


@torch.no_grad()
def _loss_of(captured: Captured, lessons: Lessons, images: torch.Tensor) -> float:
    """The mean loss over some images; NaN over none, infinite where it is no number."""
    total = 0.0
    captured.set_state(State.QUANTIZE)
    with captured.holding_weights():
        for chosen in torch.split(images, AT_ONCE):
            targets = lessons.targets(chosen)
            outputs = captured.raw(*lessons.images(chosen))
            total += float(divergence(outputs, targets)) * len(chosen)
    if not len(images):
        return math.nan
    return total / len(images) if math.isfinite(total) else math.inf


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.dot(one.reshape(-1), other.reshape(-1))


def _joined(batches: Any, images: int) -> tuple[list[torch.Tensor], list[bool]] | None:
    """The first so many images, a tensor for each of the model's arguments, and which are lists.

    `None` where an argument is no tensor or images differ in size.
    """
    columns: list[list[torch.Tensor]] = []
    lists: list[bool] = []
    left = images
    for args in batches:
        lists = [are_images(arg) for arg in args]
        parts = [list(arg) if apart else [arg] for arg, apart in zip(args, lists, strict=True)]
        if not all(isinstance(part, torch.Tensor) for column in parts for part in column):
            return None
        if any(len({part.shape for part in column}) > 1 for column in parts):
            return None
        whole = [
            torch.stack(part) if apart else part[0]
            for part, apart in zip(parts, lists, strict=True)
        ]
        columns.append([part[:left] for part in whole])
        left -= len(whole[0])
        if left <= 0:
            break
    if any(len({part.shape[1:] for part in column}) > 1 for column in zip(*columns, strict=True)):
        return None
    return [torch.cat(column) for column in zip(*columns, strict=True)], lists
