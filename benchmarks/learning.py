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
from collections.abc import Callable, Iterator, Sequence
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
from subbyte.numerics.fake_quantize import FakeQuantize, QuantizedWeight
from subbyte.numerics.qparams import QuantParams, TensorQParams, weight_of_signed
from subbyte.numerics.qspec import along
from subbyte.placement.place import place
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

SETTINGS: dict[str, LearningSettings] = {
    "adaround": replace(settings_of(LearningOptions(), ""), layers=True),
    "brecq": settings_of(LearningOptions(), ""),
    "brecq, step sizes": brecq.step_size_settings(brecq.Options()),
    "qdrop": replace(settings_of(LearningOptions(), ""), step_sizes=True, drop=0.5),
}
QUANTIZED = ("brecq, step sizes", "qdrop")  # with activations quantized meanwhile
CPU = torch.device("cpu")
BLOCKS = (1, 4, 7)  # one residual block of each width


@dataclass(frozen=True)
class Unit:
    """What is learned at a time: a block, or a layer of it.

    Attributes:
        number: Of its block.
        share: Of all blocks.
        block: The part of the simulation.
        data: What it learns from.
    """

    number: int
    share: float
    block: Block
    data: TrainingData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    module, batches = resnet20()
    simulations = simulations_of(module, batches, options.bits)
    print("| method | ours, ms a step | plain, ms a step | ratio | error, ours | error, plain |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in options.only:
        settings = replace(SETTINGS[name], steps=options.steps)
        simulation = simulations[name in QUANTIZED]
        compare(simulation, list(units_of(simulation, batches, settings)), name, settings, options)


def simulations_of(
    module: nn.Module, batches: ArgumentsOf, bits: str
) -> tuple[Simulation, Simulation]:
    """The network with its weights quantized, and with its activations too."""
    float_model = api.capture(module, next(iter(batches)))
    placement = place(float_model, recipe_of(bits, [], seed=0), targets.hints())
    weights = weight_ranges(float_model, placement, Silent())
    unquantized = simulate(float_model, placement, QuantParams())
    found, _ = activation_ranges(unquantized, batches, Silent())
    every = QuantParams({**weights, **found})
    return (
        simulate(float_model, placement, QuantParams(weights)),
        simulate(float_model, placement, every),
    )


def units_of(
    simulation: Simulation, batches: ArgumentsOf, settings: LearningSettings
) -> Iterator[Unit]:
    """Some blocks with what they read and give in float, or their layers; nothing is learned."""
    store = Store(2**33, CPU)
    values = recorded(simulation.float_model, None, "", batches, store)
    for i, block in enumerate(blocks_of(simulation, "")):
        found = values_of(simulation, block, values, store)
        if i in BLOCKS:
            number, inputs = BLOCKS.index(i), [values[node.name] for node in block.inputs]
            if not settings.layers:
                data = TrainingData(inputs, [found[node.name].exact for node in block.outputs])
                yield Unit(number, 1 / len(BLOCKS), block, data)
            else:
                yield from layer_units(simulation, block, values, number, store)
        values |= found


def layer_units(
    simulation: Simulation, block: Block, values: dict[str, Values], number: int, store: Store
) -> Iterator[Unit]:
    """The layers of a block."""
    layers = layers_of(simulation, block)
    for layer in layers:
        part = leading_to(simulation.region(""), block, layer.inputs)
        given = values_of(simulation, part, values, store)
        inputs = [given[node.name] for node in layer.inputs]
        found = values_of(simulation, layer, given, store)
        data = TrainingData(inputs, [found[node.name].exact for node in layer.outputs])
        yield Unit(number, 1 / len(BLOCKS) / len(layers), layer, data)


def values_of(
    simulation: Simulation, block: Block, values: dict[str, Values], store: Store
) -> dict[str, Values]:
    """What a block gives in float and quantized."""
    inputs = [values[node.name] for node in block.inputs]
    exact = run(float_part(simulation, block), [value.exact for value in inputs], store)
    quantized = run(block.module, [value.quantized for value in inputs], store)
    names = [node.name for node in block.outputs]
    return {n: Values(a, b) for n, a, b in zip(names, exact, quantized, strict=True)}


def compare(
    simulation: Simulation,
    units: list[Unit],
    name: str,
    settings: LearningSettings,
    options: argparse.Namespace,
) -> None:
    """Print a row: both loops on all blocks, or on all of their layers, in turns."""
    rounds = options.rounds
    seconds = {key: np.zeros((len(BLOCKS), rounds)) for key in ("ours", "plain")}
    errors = {"ours": 0.0, "plain": 0.0}
    loops: dict[str, Callable[..., object]] = {"ours": learn, "plain": plain}
    for unit in units:
        for turn in range(rounds):
            for key in sorted(loops, reverse=bool(turn % 2)):
                with untouched(simulation, unit.block):
                    activations = activations_of(simulation, unit.block)
                    generator = torch.Generator().manual_seed(turn)
                    started = time.process_time()
                    loops[key](simulation, unit.block, unit.data, activations, settings, generator)
                    seconds[key][unit.number, turn] += time.process_time() - started
                    errors[key] += error(unit) * unit.share / rounds
    ratios = np.median(seconds["ours"] / seconds["plain"], axis=1)
    every = seconds["ours"].sum(0) / seconds["plain"].sum(0)
    ours, theirs = (1000 * np.median(s, axis=1).sum() / settings.steps for s in seconds.values())
    mean = math.exp(np.log(ratios).mean())
    print(
        f"| {name} | {ours:.1f} | {theirs:.1f} | {mean:.2f} ({every.min():.2f} to "
        f"{every.max():.2f}) | {errors['ours']:.5f} | {errors['plain']:.5f} |",
        flush=True,
    )


def activations_of(simulation: Simulation, block: Block) -> list[FakeQuantize]:
    """The quantizers of a block's activations."""
    found = simulation.quantizers_in(block.module, "activation")
    return [quantizer for _, quantizer in found if isinstance(quantizer, FakeQuantize)]


def weights_of(simulation: Simulation, block: Block) -> list[tuple[torch.Tensor, QuantizedWeight]]:
    """The float weights of a block, with their quantizers."""
    found = simulation.quantizers_in(block.module, "weight")
    return [(simulation.weight(t), q) for t, q in found if isinstance(q, QuantizedWeight)]


@contextmanager
def untouched(simulation: Simulation, block: Block) -> Iterator[None]:
    """Afterwards the parameters in a block are as they were."""
    before = [
        (quantizer, quantizer.params) for _, quantizer in simulation.quantizers_in(block.module)
    ]
    try:
        yield
    finally:
        for quantizer, params in before:
            if params is not None:
                quantizer.put(params)


@torch.no_grad()
def error(unit: Unit) -> float:
    """Mean squared error of a unit as it is now, on all images."""
    outputs = unit.block.module(*[value.quantized for value in unit.data.inputs])
    pairs = zip(outputs, unit.data.targets, strict=True)
    return sum(float((output - target).square().mean()) for output, target in pairs)


def plain(
    simulation: Simulation,
    block: Block,
    data: TrainingData,
    activations: Sequence[FakeQuantize],
    settings: LearningSettings,
    generator: torch.Generator,
) -> None:
    """What `learn` does, written down as it stands in the papers."""
    weights = weights_of(simulation, block)
    soft = [SoftRounding(w, q) for w, q in weights] if settings.rounding else []
    learned = [LearnedSteps(q, settings.drop) for q in activations] if settings.step_sizes else []
    with ExitStack() as stack:
        for (_, quantizer), rounding in zip(weights, soft, strict=False):
            stack.enter_context(quantizer.replaced_by(rounding.forward))
        for activation, steps in zip(activations, learned, strict=False):
            stack.enter_context(activation.replaced_by(steps.forward))
        descend(block, data, soft, learned, settings, generator)
    for (weight, quantizer), rounding in zip(weights, soft, strict=False):
        signed = rounding.hard(weight) / rounding.scale
        params = weight_of_signed(signed, quantizer.scale, quantizer.zero_point, quantizer.spec)
        quantizer.put(params)
    for activation, steps in zip(activations, learned, strict=False):
        activation.put(TensorQParams(steps.scale.detach(), activation.zero_point))


def descend(
    block: Block,
    data: TrainingData,
    soft: list[SoftRounding],
    learned: list[LearnedSteps],
    settings: LearningSettings,
    generator: torch.Generator,
) -> None:
    """Steps of gradient descent on random images."""
    optimizers = []
    if soft:
        rates = [rounding.variable for rounding in soft]
        optimizers.append(torch.optim.Adam(rates, lr=settings.rounding_rate))
    schedule = None
    if learned:
        sizes = torch.optim.Adam([steps.scale for steps in learned], lr=settings.step_size_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sizes, T_max=settings.steps)
        optimizers.append(sizes)
    count = len(data.targets[0])
    for step in range(settings.steps):
        chosen = torch.randperm(count, generator=generator)[: settings.batch]
        inputs = [value.quantized[chosen] for value in data.inputs]
        if settings.drop is not None:
            exact = [value.exact[chosen] for value in data.inputs]
            inputs = [
                torch.where(torch.rand_like(x) < settings.drop, y, x)
                for x, y in zip(inputs, exact, strict=True)
            ]
        pairs = zip(block.module(*inputs), data.targets, strict=True)
        p = settings.exponent
        losses = [(y - target[chosen]).abs().pow(p).sum(1).mean() for y, target in pairs]
        loss = torch.stack(losses).sum() + penalty(soft, settings, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if schedule is not None:
            schedule.step()


def penalty(soft: list[SoftRounding], settings: LearningSettings, step: int) -> torch.Tensor:
    """The regularizer of AdaRound at a step."""
    total, begin = torch.zeros(()), settings.warm_up * settings.steps
    if step >= begin:
        share = (settings.steps - step) / (settings.steps - begin)
        beta = settings.beta[1] + (settings.beta[0] - settings.beta[1]) * share
        for rounding in soft:
            away = (2 * rounding.h() - 1).abs()
            total = total + settings.regularizer * (1 - away.pow(beta)).sum()
    return total


class SoftRounding(nn.Module):
    """AdaRound's soft weights of one layer (Nagel et al. 2020, equations 22 and 23)."""

    def __init__(self, weight: torch.Tensor, quantizer: QuantizedWeight) -> None:
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
        steps = (weight / self.scale).floor() + self.h() + self.zero_point
        return (steps.clamp(self.spec.low, self.spec.high) - self.zero_point) * self.scale

    @torch.no_grad()
    def hard(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, each number rounded to where it tends."""
        steps = (weight / self.scale).floor() + (self.h() >= 0.5) + self.zero_point
        return (steps.clamp(self.spec.low, self.spec.high) - self.zero_point) * self.scale


class LearnedSteps(nn.Module):
    """LSQ's fake quantization of one activation (Esser et al. 2020), dropped at random (QDrop)."""

    def __init__(self, quantizer: FakeQuantize, drop: float | None) -> None:
        super().__init__()
        self.spec, self.drop = quantizer.spec, drop
        self.zero_point = quantizer.zero_point
        self.scale = nn.Parameter(quantizer.scale.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation, quantized in part."""
        factor = 1 / math.sqrt(x.numel() * self.spec.high)
        scale = self.scale * factor + (self.scale - self.scale * factor).detach()
        steps = x / scale
        steps = (steps.round() - steps).detach() + steps + self.zero_point
        y = (steps.clamp(self.spec.low, self.spec.high) - self.zero_point) * scale
        return y if self.drop is None else torch.where(torch.rand_like(x) < self.drop, x, y)


if __name__ == "__main__":
    main()
