"""Learning one block: rounding and step sizes with which it gives what it gave in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from subbyte.graph.blocks import Block
from subbyte.methods.common.activation_cache import Values, images_of, picked
from subbyte.methods.reconstruction.quadratic import Quadratic, quadratic_of
from subbyte.methods.reconstruction.rounding import Rounding
from subbyte.methods.reconstruction.settings import Plan
from subbyte.methods.reconstruction.step_sizes import Masks, StepSizes
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.placement.simulation import Captured


@dataclass
class Lesson:
    """What a block learns from: `inputs` by position, and the `targets` of its outputs.

    importance: for each output, what a squared error of each value counts; empty: all alike.
    """

    inputs: Sequence[Values]
    targets: Sequence[torch.Tensor]
    importance: Sequence[torch.Tensor] = ()


def learn(
    captured: Captured,
    block: Block,
    lesson: Lesson,
    grids: list[FakeQuantize],
    plan: Plan,
    generator: torch.Generator,
) -> bool:
    """Learn a block's rounding, and the step sizes of `grids`, by `plan`.

    The block's grids are in the states in which they are to be learned. Returns whether all went
    well; if the loss became infinite or NaN, the block is as it was.
    """
    weights = [(captured.weight(t), q) for t, q in block.tensors(captured, "weight")]
    rounding = Rounding(weights) if plan.rounding and weights else None
    keep = 1.0 if plan.drop is None else 1 - plan.drop
    device = next(captured.parameters()).device
    masks = None if plan.drop is None else Masks(keep, generator, device)
    steps = StepSizes(grids, masks) if plan.step_sizes and grids else None
    if rounding is None and steps is None:
        return True
    before = [(grid, grid.scale.clone()) for grid in grids]
    with ExitStack() as stack:
        if steps is not None:
            stack.enter_context(steps)
        if rounding is None:
            _hold(weights, [q.quantize(w) for w, q in weights])
        error = _error(captured, block, lesson, plan)
        if rounding is not None and error is not None:
            well = _descend(error, rounding, plan)
        else:
            well = _optimize(block, lesson, rounding, steps, masks, plan, generator, device)
        for _, quantizer in weights:
            quantizer.instead = None
    if not well:
        for grid, scale in before:
            grid.scale.copy_(scale)
        return False
    if rounding is not None:
        rounding.finish()
    return True


def _optimize(
    block: Block,
    lesson: Lesson,
    rounding: Rounding | None,
    steps: StepSizes | None,
    masks: Masks | None,
    plan: Plan,
    generator: torch.Generator,
    device: torch.device,
) -> bool:
    updates: list[Callable[[int], None]] = []
    if rounding is not None:
        updates.append(_rounding_update(rounding, plan))
    if steps is not None:
        updates.append(_step_size_update(steps, plan))
    exact, quantized = [v.exact for v in lesson.inputs], [v.quantized for v in lesson.inputs]
    count = images_of(exact)
    size = min(plan.batch, count)
    for step in range(plan.steps):
        images = torch.randperm(count, generator=generator)[:size]
        inputs = picked(quantized, images, count, device)
        if masks is not None:
            inputs = [
                value if here is there else _mixed(value, here[images].to(device), masks)
                for value, here, there in zip(inputs, exact, quantized, strict=True)
            ]
        targets = picked(lesson.targets, images, count, device)
        if rounding is not None:
            _hold(rounding.tensors, rounding.weights())
        outputs = block.module(*inputs)
        factors = picked(lesson.importance, images, count, device)
        loss, gradients = _loss(outputs, targets, plan.exponent, factors)
        if not math.isfinite(loss):
            return False
        learned = [i for i, output in enumerate(outputs) if output.requires_grad]
        torch.autograd.backward([outputs[i] for i in learned], [gradients[i] for i in learned])
        for update in updates:
            update(step)
    return True


def _error(captured: Captured, block: Block, lesson: Lesson, plan: Plan) -> Quadratic | None:
    """The squared error of a layer in closed form, where that is what the plan asks for."""
    more = plan.activations or plan.step_sizes or plan.exponent != 2 or lesson.importance
    if not (plan.layers and plan.rounding) or more:
        return None
    images = min(plan.batch, images_of(lesson.targets))
    return quadratic_of(captured, block, lesson.inputs, lesson.targets, plan.steps, images)


def _descend(error: Quadratic, rounding: Rounding, plan: Plan) -> bool:
    """The same steps with the error over all images."""
    update = _rounding_update(rounding, plan)
    for step in range(plan.steps):
        (weight,) = rounding.weights()
        loss, gradient = error.at(weight.detach())
        if not math.isfinite(loss):
            return False
        rounding.soft.grad = gradient.flatten()
        update(step)
    return True


def _hold(weights: list[tuple[torch.Tensor, FakeQuantize]], held: list[torch.Tensor]) -> None:
    for (_, quantizer), value in zip(weights, held, strict=True):
        quantizer.hold(value)


def _mixed(quantized: torch.Tensor, exact: torch.Tensor, masks: Masks) -> torch.Tensor:
    """A block's input, at random as the quantized network or as the float one gives it."""
    return torch.lerp(exact, quantized, masks.like(quantized))


def _loss(
    outputs: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    p: float,
    factors: Sequence[torch.Tensor] = (),
) -> tuple[float, list[torch.Tensor]]:
    """Mean over images and positions of Σ over channels f · |y − t|^p, and its gradient in each y.

    f is 1 where there are no factors.
    """
    total, gradients = 0.0, []
    for i, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        error = output.detach() - target
        channels = output.shape[1 if output.dim() == 4 else -1]
        rows = output.numel() / channels
        size = error.abs()
        losses = size.pow(p)
        gradient = error.mul_(2 / rows) if p == 2 else _slope(size, error, p).mul_(1 / rows)
        if factors:
            losses, gradient = losses.mul_(factors[i]), gradient.mul_(factors[i])
        total += float(losses.sum()) / rows
        gradients.append(gradient)
    return total, gradients


def _slope(size: torch.Tensor, error: torch.Tensor, p: float) -> torch.Tensor:
    """The derivative of |e|^p, of which `size` is |e|; both are used up."""
    return size.pow_(p - 1).mul_(error.sign_()).mul_(p)


def _rounding_update(rounding: Rounding, plan: Plan) -> Callable[[int], None]:
    adam = torch.optim.Adam([rounding.variable], lr=plan.rounding_rate)
    begin = plan.warm_up * plan.steps
    first, last = plan.beta

    def update(step: int) -> None:
        share = max(0.0, (plan.steps - step) / max(plan.steps - begin, 1))  # of the steps left
        strength = plan.regularizer if step >= begin else 0.0
        rounding.variable.grad = rounding.gradient(strength, last + (first - last) * share)
        adam.step()

    return update


def _step_size_update(steps: StepSizes, plan: Plan) -> Callable[[int], None]:
    adam = torch.optim.Adam([steps.variable], lr=plan.step_size_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=plan.steps)

    def update(step: int) -> None:
        del step
        steps.variable.grad = steps.gradient.clone()
        steps.gradient.zero_()
        adam.step()
        falling.step()
        steps.apply()

    return update
