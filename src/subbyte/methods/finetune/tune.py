"""Scales, biases and integers of a whole network tuned together by gradients.

What the network gives, and what its blocks read, is compared with the float network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from subbyte.methods.common.output_loss import divergence, divergences
from subbyte.methods.finetune.features import Features, distance
from subbyte.methods.finetune.parameters import Parameters, Rates, Saved
from subbyte.methods.finetune.training_data import Lessons
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress

AT_ONCE = 32  # images that are looked at
PIXELS = 2**18  # whose intermediate results are in memory at a time, while it is learned
FACTORS = (16.0, 4.0, 1.0)  # of the rates, one after the other until one is good
LOOK = 4  # after this part of the steps, a factor is given up
WORSE = 4.0  # if the loss has grown by that much
SURE = 1.0  # standard errors by which the loss has grown where that is no chance


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned: steps of `batch` images each, Adam's rates, and what is learned from.

    features: what the error of what blocks read counts at first, beside that of the outputs; it
    falls to 0 along a line. factors: of the rates, one after the other until one is good.
    """

    steps: int
    batch: int
    rates: Rates
    features: float
    factors: tuple[float, ...] = FACTORS


@dataclass(frozen=True)
class Outcome:
    """How a tuning went.

    factor: of the rates, with which it was kept; `None`: all is as it was. refused: for each factor
    before, why it was not kept. loss_before, loss: means over the images that are held out, `None`
    where there are none.
    """

    factor: float | None
    refused: dict[float, str]
    loss_before: float | None
    loss: float | None

    @property
    def kept(self) -> bool:
        """Whether what was learned stands."""
        return self.factor is not None


def tune(captured: Captured, lessons: Lessons, tuning: Tuning, progress: Progress) -> Outcome:
    """Tune scales, biases and integers for so many steps.

    Images that are held out judge. Where their loss has clearly grown in the end, or a loss was
    infinite or NaN, it is tried again with the next factor of the rates; after the last one all is
    as it was.
    """
    captured.set_state(State.QUANTIZE)
    before = Saved(captured)
    at_first = _losses_of(captured, lessons, lessons.held_out)
    refused: dict[float, str] = {}
    for factor in tuning.factors:
        own = replace(tuning, rates=tuning.rates.times(factor))
        found = _learn(captured, lessons, own, at_first, progress)
        if isinstance(found, torch.Tensor):
            return Outcome(factor, refused, _mean(at_first), _mean(found))
        refused[factor] = found
        before.put_back()
    return Outcome(None, refused, _mean(at_first), _mean(at_first))


def _learn(
    captured: Captured, lessons: Lessons, tuning: Tuning, at_first: torch.Tensor, progress: Progress
) -> torch.Tensor | str:
    """All steps; the losses of the images held out, or why these steps may not stand.

    What was found is in the quantizers then.
    """
    steps = tuning.steps
    generator = torch.Generator().manual_seed(captured.recipe.seed + 1)
    parameters, features = Parameters(captured), Features(captured)
    adam = torch.optim.Adam(parameters.groups(tuning.rates))
    warm = max(1.0, 0.05 * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda i: min(1.0, (i + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    batches = _batches(lessons.learned, tuning.batch, generator)
    try:
        for step in progress.track(range(steps), "tuning the network"):
            chosen = next(batches)
            adam.zero_grad()
            for part in torch.split(chosen, max(1, PIXELS // lessons.pixels)):
                args = lessons.varied(part, generator)
                with torch.no_grad(), lessons.in_float(captured), features.recorded() as expected:
                    targets = captured.raw(*args)
                with torch.enable_grad(), parameters.in_place(captured):
                    with features.recorded() as found:
                        loss = divergence(captured.raw(*args), targets)
                    if found:
                        strength = tuning.features * (1 - step / steps)
                        loss = loss + strength * distance(found, expected)
                    if not math.isfinite(float(loss.detach())):
                        return "its loss was no number"
                    torch.autograd.backward(loss * (len(part) / len(chosen)))
            adam.step()
            schedule.step()
            if step + 1 == steps // LOOK:
                parameters.keep(captured)
                found_so_far = _losses_of(captured, lessons, lessons.held_out)
                if found_so_far.sum() > WORSE * at_first.sum():
                    return "the loss of images held out had grown fourfold on the way"
    finally:
        adam.zero_grad()
    parameters.keep(captured)
    losses = _losses_of(captured, lessons, lessons.held_out)
    return "the loss of images held out had grown" if _grown(at_first, losses) else losses


def _mean(losses: torch.Tensor) -> float | None:
    return float(losses.double().mean()) if len(losses) else None


def _grown(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether the same images' losses have grown, and by more than chance.

    Few images have most of the loss, so that a mean of some hundred tells little by itself.
    """
    if not bool(torch.isfinite(after).all()):
        return True
    more = (after - before).double()
    if len(more) < 2:
        return bool(more.sum() > 0)
    return bool(more.mean() > SURE * more.std() / len(more) ** 0.5)


def _batches(images: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Without end, so many of the images each, all of them in every round but for a rest."""
    size = min(size, len(images))
    while True:
        order = images[torch.randperm(len(images), generator=generator)]
        yield from (part for part in torch.split(order, size) if len(part) == size)


@torch.no_grad()
def _losses_of(captured: Captured, lessons: Lessons, images: torch.Tensor) -> torch.Tensor:
    """The loss of each of some images."""
    losses = [torch.zeros(0)]
    with captured.holding_weights():
        for chosen in torch.split(images, AT_ONCE):
            args = lessons.images(chosen)
            outputs = captured.raw(*args)
            with lessons.in_float(captured):
                targets = captured.raw(*args)
            losses.append(divergences(outputs, targets).cpu())
    return torch.cat(losses)
