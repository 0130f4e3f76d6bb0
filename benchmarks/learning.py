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
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from cifar10 import resnet20
from torch import nn

from subbyte import api, targets
from subbyte.app.arguments import recipe_of
from subbyte.calibration.observe import activation_ranges, weight_ranges
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.blocks import Block, leading_to
from subbyte.methods import brecq
from subbyte.methods.common.activation_cache import Values, recorded, run
from subbyte.methods.common.simulated_blocks import blocks_of, float_part, layers_of
from subbyte.methods.common.store import Store
from subbyte.methods.reconstruction.learn import TrainingData, learn
from subbyte.methods.reconstruction.settings import (
    LearningOptions,
    LearningSettings,
    settings_of,
)
from subbyte.numerics.fake_quantize import FakeQuantize, Quantizer
from subbyte.numerics.qparams import QuantParams, TensorQParams, quantize_weight
from subbyte.numerics.qspec import along
from subbyte.placement.place import place
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Recipe
from subbyte.utils.progress import Silent

PLAIN = settings_of(LearningOptions(), "")
SETTINGS: dict[str, LearningSettings] = {
    "adaround": replace(PLAIN, layers=True),
    "brecq": PLAIN,
    "brecq, step sizes": brecq.step_size_settings(brecq.Options()),
    "qdrop": replace(PLAIN, step_sizes=True, drop=0.5),
}
CPU = torch.device("cpu")
BLOCKS = (1, 4, 7)  # one residual block of each width

NodeValues = dict[str, Values]  # by the node's name


@dataclass(frozen=True)
class Lesson:
    """A block by its number, the values in front of it, and what it learns from."""

    block: int
    values: NodeValues
    data: TrainingData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    module, batches = resnet20()
    simulation = calibrated(module, batches, recipe_of(options.bits, [], seed=0))
    store = Store(2**33, CPU)
    lessons = list(lessons_of(simulation, batches, store))
    print("| method | ours, ms a step | plain, ms a step | ratio | error, ours | error, plain |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in options.only:
        settings = replace(SETTINGS[name], steps=options.steps)
        own = simulation if settings.step_sizes else weights_alone(simulation)
        compare(own, lessons, name, settings, options.rounds, store)


def calibrated(module: nn.Module, batches: ArgumentsOf, recipe: Recipe) -> Simulation:
    """The simulation that learning begins at, all ranges chosen in the float network."""
    float_model = api.capture(module, next(iter(batches)))
    placement = place(float_model, recipe, targets.hints())
    in_float = simulate(float_model, placement, QuantParams())
    found, _ = activation_ranges(in_float, batches, Silent())
    weights = weight_ranges(float_model, placement, Silent())
    return simulate(float_model, placement, QuantParams({**weights, **found}))


def weights_alone(simulation: Simulation) -> Simulation:
    """The same with activations in float."""
    tensors, placement = simulation.params.tensors, simulation.placement
    weights = {tensor.key: tensors[tensor.key] for tensor in placement.of_role("weight")}
    return simulate(simulation.float_model, placement, QuantParams(weights))


def lessons_of(
    simulation: Simulation, batches: Iterable[tuple[object, ...]], store: Store
) -> Iterator[Lesson]:
    """Some blocks with what they read behind quantized ones and give in float; none is learned."""
    values = recorded(simulation.float_model, None, "", batches, store)
    for i, block in enumerate(blocks_of(simulation, "")):
        given = [values[node.name] for node in block.inputs]
        exact = exact_of(simulation, block, given, store)
        if i in BLOCKS:
            yield Lesson(i, dict(values), TrainingData(given, exact))
        values |= results_of(block, given, exact, store)


def exact_of(
    simulation: Simulation, block: Block, inputs: Sequence[Values], store: Store
) -> list[torch.Tensor]:
    """What a block gives in the float network."""
    return run(float_part(simulation, block), [value.exact for value in inputs], store)


def results_of(
    block: Block, inputs: Sequence[Values], exact: list[torch.Tensor], store: Store
) -> NodeValues:
    """What a block gives, `exact` in float, and quantized behind quantized blocks."""
    quantized = run(block.module, [value.quantized for value in inputs], store)
    return {n.name: Values(a, b) for n, a, b in zip(block.outputs, exact, quantized, strict=True)}


def compare(
    simulation: Simulation,
    lessons: list[Lesson],
    name: str,
    settings: LearningSettings,
    rounds: int,
    store: Store,
) -> None:
    """Print a row: both loops on all blocks, or on all of their layers, in turns.

    Args:
        simulation: What learning begins at.
        lessons: Of some of its blocks.
        name: The row's.
        settings: What is learned, and how.
        rounds: How often both loops run.
        store: Where what layers read and give is kept.
    """
    seconds = {"ours": np.zeros((len(lessons), rounds)), "plain": np.zeros((len(lessons), rounds))}
    errors = {"ours": 0.0, "plain": 0.0}
    loops: dict[str, Callable[..., object]] = {"ours": learn, "plain": plain}
    for i, share, unit, data in units_of(simulation, lessons, settings, store):
        activations = activations_of(simulation, unit)
        for turn in range(rounds):
            for key in sorted(loops, reverse=bool(turn % 2)):
                with untouched(simulation, unit):
                    generator = torch.Generator().manual_seed(turn)
                    started = time.process_time()
                    loops[key](simulation, unit, data, activations, settings, generator)
                    seconds[key][i, turn] += time.process_time() - started
                    errors[key] += error(unit, data) * share / rounds
    ratios = np.median(seconds["ours"] / seconds["plain"], axis=1)
    every = seconds["ours"].sum(0) / seconds["plain"].sum(0)
    ours, theirs = (1000 * np.median(s, axis=1).sum() / settings.steps for s in seconds.values())
    mean = math.exp(np.log(ratios).mean())
    print(
        f"| {name} | {ours:.1f} | {theirs:.1f} | {mean:.2f} ({every.min():.2f} to "
        f"{every.max():.2f}) | {errors['ours']:.5f} | {errors['plain']:.5f} |",
        flush=True,
    )


def units_of(
    simulation: Simulation, lessons: list[Lesson], settings: LearningSettings, store: Store
) -> Iterator[tuple[int, float, Block, TrainingData]]:
    """What is learned at a time: its lesson's number, its share of all, itself, and its data."""
    blocks = blocks_of(simulation, "")
    for i, lesson in enumerate(lessons):
        block = blocks[lesson.block]
        if not settings.layers:
            yield i, 1 / len(lessons), block, lesson.data
            continue
        layers = layers_of(simulation, block)
        given = [lesson.values[node.name] for node in block.inputs]
        for layer in layers:
            part = leading_to(simulation.region(""), block, layer.inputs)
            before = results_of(part, given, exact_of(simulation, part, given, store), store)
            inputs = [before[node.name] for node in layer.inputs]
            data = TrainingData(inputs, exact_of(simulation, layer, inputs, store))
            yield i, 1 / len(lessons) / len(layers), layer, data


def activations_of(simulation: Simulation, unit: Block) -> list[FakeQuantize]:
    """The quantizers of activations in a block."""
    found = simulation.quantizers_in(unit.module, "activation")
    return [quantizer for _, quantizer in found if isinstance(quantizer, FakeQuantize)]


@contextmanager
def untouched(simulation: Simulation, unit: Block) -> Iterator[None]:
    """Afterwards the parameters of `unit` are as they were."""
    before = [(tensor.key, q.params) for tensor, q in simulation.quantizers_in(unit.module)]
    try:
        yield
    finally:
        for key, params in before:
            if params is not None:
                simulation.put(key, params)


@torch.no_grad()
def error(unit: Block, data: TrainingData) -> float:
    """Mean squared error of a unit as it is now, on all images."""
    outputs = unit.module(*[value.quantized for value in data.inputs])
    pairs = zip(outputs, data.targets, strict=True)
    return sum(float((output - target).square().mean()) for output, target in pairs)


def plain(
    simulation: Simulation,
    unit: Block,
    data: TrainingData,
    activations: list[FakeQuantize],
    settings: LearningSettings,
    generator: torch.Generator,
) -> None:
    """What `learn` does, with the same arguments, written down as it stands in the papers."""
    tensors = list(simulation.quantizers_in(unit.module, "weight")) if settings.rounding else []
    soft = [SoftRounding(simulation.weight(tensor), quantizer) for tensor, quantizer in tensors]
    moved = activations if settings.step_sizes else []
    learned = [LearnedSteps(quantizer, settings.drop) for quantizer in moved]
    optimizers: list[torch.optim.Optimizer] = []
    if soft:
        rates = [rounding.variable for rounding in soft]
        optimizers.append(torch.optim.Adam(rates, lr=settings.rounding_rate))
    schedule = None
    if learned:
        sizes = torch.optim.Adam([steps.scale for steps in learned], lr=settings.step_size_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sizes, T_max=settings.steps)
        optimizers.append(sizes)
    with ExitStack() as stack:
        for (_, quantizer), rounding in zip(tensors, soft, strict=True):
            stack.enter_context(quantizer.replaced_by(rounding))
        for activation, steps in zip(moved, learned, strict=True):
            stack.enter_context(activation.replaced_by(steps))
        for step in range(settings.steps):
            loss = loss_of(unit, data, soft, step, settings, generator)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            if schedule is not None:
                schedule.step()
    for (tensor, quantizer), rounding in zip(tensors, soft, strict=True):
        hard = rounding.hard(simulation.weight(tensor))
        found = quantize_weight(hard, quantizer.scale, quantizer.zero_point, tensor.spec)
        simulation.put(tensor.key, found)
    for activation, steps in zip(moved, learned, strict=True):
        activation.put(TensorQParams(steps.scale.detach(), activation.zero_point))


def loss_of(
    unit: Block,
    data: TrainingData,
    soft: list[SoftRounding],
    step: int,
    settings: LearningSettings,
    generator: torch.Generator,
) -> torch.Tensor:
    """The loss of some images drawn at random, and the regularizer."""
    chosen = torch.randperm(len(data.targets[0]), generator=generator)[: settings.batch]
    inputs = [value.quantized[chosen] for value in data.inputs]
    if settings.drop is not None:
        exact = [value.exact[chosen] for value in data.inputs]
        inputs = [
            torch.where(torch.rand_like(x) < settings.drop, y, x)
            for x, y in zip(inputs, exact, strict=True)
        ]
    pairs = zip(unit.module(*inputs), data.targets, strict=True)
    loss = torch.stack(
        [(y - target[chosen]).abs().pow(settings.exponent).sum(1).mean() for y, target in pairs]
    ).sum()
    warm_up = settings.warm_up * settings.steps
    if step >= warm_up:
        share = (settings.steps - step) / (settings.steps - warm_up)
        beta = settings.beta[1] + (settings.beta[0] - settings.beta[1]) * share
        for rounding in soft:
            away = (2 * rounding.h() - 1).abs()
            loss = loss + settings.regularizer * (1 - away.pow(beta)).sum()
    return loss


class SoftRounding(nn.Module):
    """AdaRound's soft weights of one layer (Nagel et al. 2020, equations 22 and 23)."""

    def __init__(self, weight: torch.Tensor, quantizer: Quantizer) -> None:
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

    def __init__(self, quantizer: FakeQuantize, drop: float | None) -> None:
        super().__init__()
        self.spec, self.zero_point, self.drop = quantizer.spec, quantizer.zero_point, drop
        self.scale = nn.Parameter(quantizer.scale.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation quantized, in part."""
        factor = 1 / math.sqrt(x.numel() * self.spec.high)
        scale = self.scale * factor + (self.scale - self.scale * factor).detach()
        level = x / scale
        level = (level.round() - level).detach() + level + self.zero_point
        y = (level.clamp(self.spec.low, self.spec.high) - self.zero_point) * scale
        return y if self.drop is None else torch.where(torch.rand_like(x) < self.drop, x, y)


if __name__ == "__main__":
    main()
