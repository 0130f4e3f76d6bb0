"""Learning one block: rounding and step sizes with which it gives what it gave in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from subbyte.graph.blocks import Block
from subbyte.methods.common.activation_cache import Values, images_of, picked
from subbyte.methods.reconstruction.block_loss import block_loss
from subbyte.methods.reconstruction.quadratic import Quadratic, quadratic_of
from subbyte.methods.reconstruction.rounding import Rounding
from subbyte.methods.reconstruction.settings import LearningSettings
from subbyte.methods.reconstruction.step_sizes import Masks, StepSizes
from subbyte.numerics.fake_quantize import FakeQuantize, QuantizedWeight
from subbyte.placement.simulation import Simulation

Observe = Callable[[int, float], None]  # of the number of a step and its loss
Update = Callable[[int], None]  # what changes the parameters after a step of this number


@dataclass
class TrainingData:
    """What a block learns from.

    Attributes:
        inputs: What it reads, by position.
        targets: What it should give.
        factors: For each output, what a squared error of each value counts; empty: all alike.
    """

    inputs: Sequence[Values]
    targets: Sequence[torch.Tensor]
    factors: Sequence[torch.Tensor] = ()


def learn(
    simulation: Simulation,
    block: Block,
    data: TrainingData,
    activations: Sequence[FakeQuantize],
    settings: LearningSettings,
    generator: torch.Generator,
    observe: Observe = lambda *_: None,
) -> bool:
    """Learn a block's rounding and step sizes, and put them into the simulation.

    Args:
        simulation: The method's own. Activations are quantized meanwhile if they have parameters.
        block: A block of it, or a layer.
        data: What it reads and should give on all images.
        activations: Those whose step sizes are learned, if `settings` ask for it.
        settings: What is learned, and how.
        generator: Of all that is drawn at random.
        observe: Takes the number of each step and its loss.

    Returns:
        Whether all went well; if the loss became infinite or NaN, the block is as it was.
    """
    weights = _weights(simulation, block)
    rounding = Rounding([(w, q) for _, w, q in weights]) if settings.rounding and weights else None
    device = simulation.float_model.device
    drop = settings.drop
    masks = None if drop is None else Masks(1 - drop, generator, device)
    steps = StepSizes(activations, masks) if settings.step_sizes and activations else None
    if rounding is None and steps is None:
        return True
    before = [(quantizer, quantizer.params) for quantizer in activations]
    with ExitStack() as stack:
        for learned in (rounding, steps):
            if learned is not None:
                stack.enter_context(learned.in_place())
        error = _quadratic(simulation, block, data, settings)
        if rounding is not None and error is not None:
            well = _descend(error, rounding, settings, observe)
        else:
            loop = _Loop(block, data, rounding, steps, masks, settings, device)
            well = loop.run(generator, observe)
    if not well:
        for quantizer, params in before:
            if params is not None:
                quantizer.put(params)
        return False
    if rounding is not None:
        for (key, _, _), params in zip(weights, rounding.rounded(), strict=True):
            simulation.put(key, params)
    return True


def _weights(
    simulation: Simulation, block: Block
) -> list[tuple[str, torch.Tensor, QuantizedWeight]]:
    """The key, the float weight and the quantizer of each quantized weight of a block."""
    return [
        (tensor.key, simulation.weight(tensor), quantizer)
        for tensor, quantizer in simulation.quantizers_in(block.module, "weight")
        if isinstance(quantizer, QuantizedWeight)
    ]


@dataclass
class _Loop:
    """Steps of gradient descent on some images each, drawn at random."""

    block: Block
    data: TrainingData
    rounding: Rounding | None
    steps: StepSizes | None
    masks: Masks | None
    settings: LearningSettings
    device: torch.device

    def run(self, generator: torch.Generator, observe: Observe) -> bool:
        """Whether the loss was a number all the time."""
        updates: list[Update] = []
        if self.rounding is not None:
            updates.append(_rounding_update(self.rounding, self.settings))
        if self.steps is not None:
            updates.append(_step_size_update(self.steps, self.settings))
        count = images_of([values.exact for values in self.data.inputs])
        size = min(self.settings.batch, count)
        for step in range(self.settings.steps):
            images = torch.randperm(count, generator=generator)[:size]
            inputs = self._inputs(images, count)
            targets = picked(self.data.targets, images, count, self.device)
            if self.rounding is not None:
                self.rounding.renew()
            outputs = self.block.module(*inputs)
            factors = picked(self.data.factors, images, count, self.device)
            loss, gradients = block_loss(outputs, targets, self.settings.exponent, factors)
            observe(step, loss)
            if not math.isfinite(loss):
                return False
            learned = [i for i, output in enumerate(outputs) if output.requires_grad]
            torch.autograd.backward([outputs[i] for i in learned], [gradients[i] for i in learned])
            for update in updates:
                update(step)
        return True

    def _inputs(self, images: torch.Tensor, count: int) -> list[torch.Tensor]:
        """What the block reads of some images: at random in float, where something is dropped."""
        given = self.data.inputs
        inputs = picked([values.quantized for values in given], images, count, self.device)
        if self.masks is None:
            return inputs
        return [
            x if values.exact is values.quantized else self._mixed(x, values.exact[images])
            for x, values in zip(inputs, given, strict=True)
        ]

    def _mixed(self, quantized: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        assert self.masks is not None
        return torch.lerp(exact.to(self.device), quantized, self.masks.like(quantized))


def _quadratic(
    simulation: Simulation, block: Block, data: TrainingData, settings: LearningSettings
) -> Quadratic | None:
    """The squared error of a layer in closed form, where that is what is asked for."""
    if not (settings.layers and settings.rounding):
        return None
    if settings.step_sizes or settings.exponent != 2 or data.factors:
        return None
    found = simulation.quantizers_in(block.module, "activation")
    if any(quantizer.has_params for _, quantizer in found):
        return None
    images = min(settings.batch, images_of(data.targets))
    return quadratic_of(simulation, block, data.inputs, data.targets, settings.steps, images)


def _descend(
    error: Quadratic, rounding: Rounding, settings: LearningSettings, observe: Observe
) -> bool:
    """The same steps with the error over all images."""
    update = _rounding_update(rounding, settings)
    for step in range(settings.steps):
        (weight,) = rounding.renew()
        loss, gradient = error.at(weight.detach())
        observe(step, loss)
        if not math.isfinite(loss):
            return False
        rounding.soft.grad = gradient.flatten()
        update(step)
    return True


def _rounding_update(rounding: Rounding, settings: LearningSettings) -> Update:
    adam = torch.optim.Adam([rounding.variable], lr=settings.rounding_rate)
    begin = settings.warm_up * settings.steps
    first, last = settings.beta

    def update(step: int) -> None:
        # Of the steps that are left.
        share = max(0.0, (settings.steps - step) / max(settings.steps - begin, 1))
        strength = settings.regularizer if step >= begin else 0.0
        rounding.variable.grad = rounding.gradient(strength, last + (first - last) * share)
        adam.step()

    return update


def _step_size_update(steps: StepSizes, settings: LearningSettings) -> Update:
    adam = torch.optim.Adam([steps.variable], lr=settings.step_size_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=settings.steps)

    def update(step: int) -> None:
        del step
        steps.variable.grad = steps.gradient.clone()
        steps.gradient.zero_()
        adam.step()
        falling.step()
        steps.apply()

    return update
