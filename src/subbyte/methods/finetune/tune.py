"""Scales, biases and integers of a whole network tuned together by gradients.

What the network gives, and what its blocks read, is compared with the float network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from subbyte.graph.float_model import FloatModel
from subbyte.graph.output_loss import has_grown
from subbyte.methods.common.context import Context
from subbyte.methods.finetune.features import distance, feature_keys, recorded
from subbyte.methods.finetune.held_out import HeldOut
from subbyte.methods.finetune.parameters import Parameters, Rates
from subbyte.methods.finetune.training_data import TuningData
from subbyte.methods.finetune.training_steps import StepPart, TrainingSteps
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation, simulate

PIXELS_IN_MEMORY = 204_800  # whose intermediate results are kept at a time, while it is learned
STAGE = "tuning the network"
RATE_FACTORS = (16.0, 4.0, 1.0)  # one after the other until one is good
CHECKED_AFTER = 4  # after this part of the steps, a factor is given up
TOO_MUCH = 4.0  # if the loss has grown by that much


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned.

    Attributes:
        steps: How many.
        batch: Images in each.
        rates: Adam's.
        features: What the error of what blocks read counts at first, beside that of the outputs; it
            falls to 0 along a line.
        rate_factors: Of the rates, one after the other until one is good.
    """

    steps: int
    batch: int
    rates: Rates
    features: float
    rate_factors: tuple[float, ...] = RATE_FACTORS


@dataclass(frozen=True)
class Outcome:
    """How a tuning went.

    Attributes:
        factor: Of the rates, with which it was kept; `None`: all is as it was.
        refused: For each factor before, why it was not kept.
        loss_before: Mean over the images that are held out; `None` where there are none.
        loss: Likewise, in the end.
    """

    factor: float | None
    refused: dict[float, str]
    loss_before: float | None
    loss: float | None

    @property
    def kept(self) -> bool:
        """Whether the learned parameters are kept."""
        return self.factor is not None


def tune(
    float_model: FloatModel,
    placement: Placement,
    params: QuantParams,
    data: TuningData,
    tuning: Tuning,
    context: Context,
) -> tuple[QuantParams, Outcome]:
    """Tune scales, biases and integers for so many steps.

    Images that are held out judge. Where their loss has clearly grown in the end, or a loss was
    infinite or NaN, it is tried again with the next factor of the rates.

    Args:
        float_model: The model, which is learned from.
        placement: What is quantized.
        params: Of all that is quantized, to begin with.
        data: The images.
        tuning: How it is done.
        context: Seed and progress.

    Returns:
        The parameters found, or those there were where no factor is good; and how it went.
    """
    student = simulate(float_model, placement, params)
    teacher = simulate(float_model, placement, QuantParams())
    at_once, seed = max(1, PIXELS_IN_MEMORY // data.pixels), context.seed + 1
    training = TrainingSteps(teacher, feature_keys(student), data, tuning.batch, at_once, seed)
    judging = HeldOut(float_model, data)
    before = judging.losses(student)
    judged = partial(context.observer.loss, STAGE, "", held_out=True)
    refused: dict[float, str] = {}
    for factor in tuning.rate_factors:
        own = replace(tuning, rates=tuning.rates.times(factor))
        if len(before):
            judged(0, float(before.mean()))
        why = _learn(student, training, own, judging, before, context)
        if why is None:
            losses = judging.losses(student)
            if len(losses):
                judged(tuning.steps, float(losses.mean()))
            if not has_grown(before, losses):
                return student.params, Outcome(factor, refused, _mean(before), _mean(losses))
            why = "the loss of images held out had grown"
        refused[factor] = why
        student = simulate(float_model, placement, params)
    return params, Outcome(None, refused, _mean(before), _mean(before))


def _learn(
    student: Simulation,
    training: TrainingSteps,
    tuning: Tuning,
    judging: HeldOut,
    before: torch.Tensor,
    context: Context,
) -> str | None:
    """Take all steps; return why they stopped early, or `None`.

    Args:
        student: Has what was learned in the end.
        training: What it learns from.
        tuning: How it is done.
        judging: The images held out.
        before: Their losses before.
        context: Progress, and who takes the losses.
    """
    steps = tuning.steps
    parameters = Parameters(student)
    adam = torch.optim.Adam(parameters.groups(tuning.rates))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: _share_of_rate(i, steps))
    try:
        for step in context.progress.track(range(steps), STAGE):
            adam.zero_grad(set_to_none=False)
            strength, total = tuning.features * (1 - step / steps), 0.0
            with torch.enable_grad(), parameters.in_place():
                for part in training.at(step):
                    loss = _loss(student, part, training.features, strength)
                    if not math.isfinite(float(loss.detach())):
                        return "its loss was not a number"
                    torch.autograd.backward(loss * part.share)
                    total += float(loss.detach()) * part.share
            context.observer.loss(STAGE, "", step, total, held_out=False)
            adam.step()
            schedule.step()
            if step + 1 == steps // CHECKED_AFTER:
                parameters.put()
                if judging.losses(student).sum() > TOO_MUCH * before.sum():
                    return "the loss of images held out had grown fourfold on the way"
    finally:
        parameters.released()
    parameters.put()
    return None


def _share_of_rate(step: int, steps: int) -> float:
    """A cosine that falls to 0, behind a short rise."""
    rise = max(1.0, 0.05 * steps)
    return min(1.0, (step + 1) / rise) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def _loss(
    student: Simulation, part: StepPart, features: Sequence[str], strength: float
) -> torch.Tensor:
    """How far outputs and features are from the float network's.

    Args:
        student: Computes with what is learned.
        part: What it learns from.
        features: The keys of what blocks read.
        strength: What the error of features counts.
    """
    with recorded(student, features) as found:
        loss = student.float_model.output_loss.mean(
            student.raw(*part.args), part.targets, tuple(part.args)
        )
    loss = loss * part.energy
    return loss + strength * distance(found, part.features, part.energies) if found else loss


def _mean(losses: torch.Tensor) -> float | None:
    return float(losses.double().mean()) if len(losses) else None
