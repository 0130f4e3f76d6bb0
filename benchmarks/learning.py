"""Learning a block against a plain loop of the same arithmetic, side by side on one thread.

    uv run python benchmarks/learning.py [--steps 100] [--rounds 5] [--bits w4a4] [--only METHOD]

Blocks of ResNet-20 for CIFAR-10 with its published weights, on 1,024 real calibration images from
$SUBBYTE_DATA. The plain loop has what papers and research code write down: a parameter a layer,
soft rounding and fake quantization in single operations with autograd, a fresh random mask for each
tensor, the regularizer as a term of the loss. Both start from the same ranges and learn from the
same inputs and targets; after as many steps the error of the block, rounded, shows that they do the
same. Rounds are interleaved; a ratio is that of the processor seconds of one round, printed is the
median over the rounds with their extremes, and the geometric mean over the blocks.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from cifar10 import resnet20
from torch import nn

from subbyte import api
from subbyte.app.commands import recipe_of
from subbyte.calibration.observe import choose_activations, choose_weights
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.blocks import Block, find_blocks, single_layers
from subbyte.methods import brecq
from subbyte.methods.common.activation_cache import Values, recorded, states
from subbyte.methods.common.store import Store
from subbyte.methods.reconstruction.blockwise import Walk, _exact, _inputs, _results
from subbyte.methods.reconstruction.learn import Lesson, learn
from subbyte.methods.reconstruction.settings import LearningOptions, Plan, plan_of
from subbyte.numerics.fake_quantize import FakeQuantize, State
from subbyte.numerics.qspec import along
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent

PLANS: dict[str, Plan] = {
    "adaround": replace(plan_of(LearningOptions(), ""), layers=True),
    "brecq": plan_of(LearningOptions(), ""),
    "brecq, step sizes": brecq.plan_of_step_sizes(brecq.Options()),
    "qdrop": replace(plan_of(LearningOptions(), ""), step_sizes=True, activations=True, drop=0.5),
}
CPU = torch.device("cpu")
BLOCKS = (1, 4, 7)  # one residual block of each width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--only", nargs="+", choices=PLANS, default=list(PLANS))
    options = parser.parse_args()
    module, batches = resnet20()
    captured = api.prepare(module, next(iter(batches)), recipe_of(options.bits, [], seed=0))
    choose_weights(captured, Silent())
    choose_activations(captured, batches, Silent(), State.OFF)
    lessons = list(lessons_of(captured, batches))
    print("| method | ours, ms a step | plain, ms a step | ratio | error, ours | error, plain |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in options.only:
        plan = replace(PLANS[name], steps=options.steps)
        compare(captured, lessons, name, plan, options.rounds)


def lessons_of(
    captured: Captured, batches: ArgumentsOf
) -> Iterator[tuple[Block, dict[torch.fx.Node, Values], Lesson]]:
    """Some blocks with what they read in front of grids and give in float; nothing is learned."""
    walk = Walk(captured, batches, PLANS["qdrop"], Store(2**33, CPU))
    values = recorded(captured, "", batches, walk.store)
    for i, block in enumerate(find_blocks(captured, "")):
        inputs = [values[node] for node in block.inputs]
        exact = _exact(walk, block, inputs)
        if i in BLOCKS:
            yield block, dict(values), Lesson(inputs, exact)
        values |= _results(walk, block, values, exact)


def compare(
    captured: Captured,
    lessons: list[tuple[Block, dict[torch.fx.Node, Values], Lesson]],
    name: str,
    plan: Plan,
    rounds: int,
) -> None:
    """Print a row: both loops on all blocks, or on all of their layers, in turns."""
    seconds = {"ours": np.zeros((len(lessons), rounds)), "plain": np.zeros((len(lessons), rounds))}
    errors = {"ours": 0.0, "plain": 0.0}
    loops: dict[str, Callable[..., object]] = {"ours": learn, "plain": plain}
    for i, share, unit, lesson in units_of(captured, lessons, plan):
        for turn in range(rounds):
            for key in sorted(loops, reverse=bool(turn % 2)):
                with untouched(captured, unit):
                    grids = [q for _, q in unit.tensors(captured, "activation")]
                    generator = torch.Generator().manual_seed(turn)
                    with states(captured, unit, State.QUANTIZE, plan.activation_state):
                        started = time.process_time()
                        loops[key](captured, unit, lesson, grids, plan, generator)
                        seconds[key][i, turn] += time.process_time() - started
                        errors[key] += error(unit, lesson) * share / rounds
    ratios = np.median(seconds["ours"] / seconds["plain"], axis=1)
    every = seconds["ours"].sum(0) / seconds["plain"].sum(0)
    ours, theirs = (1000 * np.median(s, axis=1).sum() / plan.steps for s in seconds.values())
    mean = math.exp(np.log(ratios).mean())
    print(
        f"| {name} | {ours:.1f} | {theirs:.1f} | {mean:.2f} ({every.min():.2f} to "
        f"{every.max():.2f}) | {errors['ours']:.5f} | {errors['plain']:.5f} |",
        flush=True,
    )


def units_of(
    captured: Captured,
    lessons: list[tuple[Block, dict[torch.fx.Node, Values], Lesson]],
    plan: Plan,
) -> Iterator[tuple[int, float, Block, Lesson]]:
    """What is learned at a time: its block's number, its share of all blocks, and its lesson."""
    walk = Walk(captured, [], plan, Store(2**33, CPU))
    for i, (block, values, whole) in enumerate(lessons):
        if not plan.layers:
            yield i, 1 / len(lessons), block, whole
            continue
        layers = single_layers(captured, block)
        for layer in layers:
            inputs = _inputs(walk, block, layer, values)
            lesson = Lesson(inputs, _exact(walk, layer, inputs))
            yield i, 1 / len(lessons) / len(layers), layer, lesson


@contextmanager
def untouched(captured: Captured, unit: Block) -> Iterator[None]:
    """Afterwards the grids of `unit` are as they were."""
    grids = [quantizer for _, quantizer in unit.tensors(captured)]
    before = [copy.deepcopy(grid.state_dict()) for grid in grids]
    try:
        yield
    finally:
        for grid, state in zip(grids, before, strict=True):
            grid.offset, grid.instead = None, None
            grid.scale.copy_(state["scale"])


@torch.no_grad()
def error(unit: Block, lesson: Lesson) -> float:
    """Mean squared error of a unit as it is now, on all images."""
    outputs = unit.module(*[value.quantized for value in lesson.inputs])
    pairs = zip(outputs, lesson.targets, strict=True)
    return sum(float((output - target).square().mean()) for output, target in pairs)


def plain(
    captured: Captured,
    unit: Block,
    lesson: Lesson,
    grids: list[FakeQuantize],
    plan: Plan,
    generator: torch.Generator,
) -> None:
    """What `learn` does, written down as it stands in the papers."""
    weights = [(captured.weight(t), q) for t, q in unit.tensors(captured, "weight")]
    soft = [SoftRounding(w, q) for w, q in weights] if plan.rounding else []
    for (_, quantizer), rounding in zip(weights, soft, strict=False):
        quantizer.instead = rounding.forward
    learned = [LearnedSteps(grid, plan.drop) for grid in grids] if plan.step_sizes else []
    for grid, steps in zip(grids, learned, strict=False):
        grid.instead = steps.forward
    optimizers = []
    if soft:
        rates = [rounding.variable for rounding in soft]
        optimizers.append(torch.optim.Adam(rates, lr=plan.rounding_rate))
    schedule = None
    if learned:
        sizes = torch.optim.Adam([steps.scale for steps in learned], lr=plan.step_size_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sizes, T_max=plan.steps)
        optimizers.append(sizes)
    count = len(lesson.targets[0])
    for step in range(plan.steps):
        chosen = torch.randperm(count, generator=generator)[: plan.batch]
        inputs = [value.quantized[chosen] for value in lesson.inputs]
        if plan.drop is not None:
            exact = [value.exact[chosen] for value in lesson.inputs]
            inputs = [
                torch.where(torch.rand_like(x) < plan.drop, y, x)
                for x, y in zip(inputs, exact, strict=True)
            ]
        pairs = zip(unit.module(*inputs), lesson.targets, strict=True)
        loss = torch.stack(
            [(y - target[chosen]).abs().pow(plan.exponent).sum(1).mean() for y, target in pairs]
        ).sum()
        if step >= plan.warm_up * plan.steps:
            share = (plan.steps - step) / (plan.steps - plan.warm_up * plan.steps)
            beta = plan.beta[1] + (plan.beta[0] - plan.beta[1]) * share
            for rounding in soft:
                away = (2 * rounding.h() - 1).abs()
                loss = loss + plan.regularizer * (1 - away.pow(beta)).sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if schedule is not None:
            schedule.step()
    for (weight, quantizer), rounding in zip(weights, soft, strict=False):
        quantizer.hold(rounding.hard(weight))
    for grid, steps in zip(grids, learned, strict=False):
        grid.scale.copy_(steps.scale.detach())
        grid.instead = None


class SoftRounding(nn.Module):
    """AdaRound's soft weights of one layer (Nagel et al. 2020, equations 22 and 23)."""

    def __init__(self, weight: torch.Tensor, quantizer: FakeQuantize) -> None:
        super().__init__()
        self.spec = quantizer.spec
        self.scale = along(quantizer.scale, weight, quantizer.spec.axis)
        self.zero_point = along(quantizer.zero_point, weight, quantizer.spec.axis)
        rest = weight / self.scale - (weight / self.scale).floor()
        self.variable = nn.Parameter(-torch.log(1.2 / (rest + 0.1) - 1))

    def h(self) -> torch.Tensor:
        """How far each weight is rounded up."""
        return torch.clamp(torch.sigmoid(self.variable) * 1.2 - 0.1, 0, 1)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, softly rounded."""
        level = (weight / self.scale).floor() + self.h() + self.zero_point
        return (level.clamp(self.spec.low, self.spec.high) - self.zero_point) * self.scale

    @torch.no_grad()
    def hard(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, each number rounded to where it tends."""
        level = (weight / self.scale).floor() + (self.h() >= 0.5) + self.zero_point
        return (level.clamp(self.spec.low, self.spec.high) - self.zero_point) * self.scale


class LearnedSteps(nn.Module):
    """LSQ's fake quantization of one activation (Esser et al. 2020), dropped at random (QDrop)."""

    def __init__(self, grid: FakeQuantize, drop: float | None) -> None:
        super().__init__()
        self.spec, self.zero_point, self.drop = grid.spec, grid.zero_point, drop
        self.scale = nn.Parameter(grid.scale.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation on its grid, in part."""
        factor = 1 / math.sqrt(x.numel() * self.spec.high)
        scale = self.scale * factor + (self.scale - self.scale * factor).detach()
        level = x / scale
        level = (level.round() - level).detach() + level + self.zero_point
        y = (level.clamp(self.spec.low, self.spec.high) - self.zero_point) * scale
        return y if self.drop is None else torch.where(torch.rand_like(x) < self.drop, x, y)


if __name__ == "__main__":
    main()
