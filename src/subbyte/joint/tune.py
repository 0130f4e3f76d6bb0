"""Scales, biases and integers of a whole network tuned together by gradients.

What the network gives, and what its blocks read, is compared with the float network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import State
from subbyte.joint.features import Features, distance
from subbyte.joint.lessons import Lessons
from subbyte.joint.objective import divergence
from subbyte.joint.parameters import Parameters, Rates, Saved
from subbyte.progress import Progress

AT_ONCE = 32  # images that are looked at
PIXELS = 2**18  # whose intermediate results are in memory at a time, while it is learned
FACTORS = (16.0, 4.0, 1.0)  # of the rates, one after the other until one is good
LOOK = 4  # after this part of the steps, a factor is given up
WORSE = 4.0  # if the loss has grown by that much


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned: steps of `batch` images each, Adam's rates, and what is learned from.

    features: what the error of what blocks read counts at first, beside that of the outputs; it
    falls to 0 along a line.
    """

    steps: int
    batch: int
    rates: Rates
    features: float


def tune(captured: Captured, lessons: Lessons, tuning: Tuning, progress: Progress) -> bool:
    """Tune scales, biases and integers for so many steps; return whether that was kept.

    Images that are held out judge. Where their loss is no lower in the end, or a loss was infinite
    or NaN, it is tried again with a fourth of the rates, twice; then all is as it was.
    """
    captured.set_state(State.QUANTIZE)
    before = Saved(captured)
    at_first = _loss_of(captured, lessons, lessons.held_out)
    for factor in FACTORS:
        rates = tuning.rates.times(factor)
        if _learn(captured, lessons, replace(tuning, rates=rates), at_first, progress):
            return True
        before.put_back()
    return False


def _learn(
    captured: Captured, lessons: Lessons, tuning: Tuning, at_first: float, progress: Progress
) -> bool:
    """All steps; whether these gained. What was found is in the quantizers then."""
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
                        return False
                    torch.autograd.backward(loss * (len(part) / len(chosen)))
            adam.step()
            schedule.step()
            if step + 1 == steps // LOOK:
                parameters.keep(captured)
                if _loss_of(captured, lessons, lessons.held_out) > WORSE * at_first:
                    return False
    finally:
        adam.zero_grad()
    parameters.keep(captured)
    return _loss_of(captured, lessons, lessons.held_out) < at_first or not len(lessons.held_out)


def _batches(images: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Without end, so many of the images each, all of them in every round but for a rest."""
    size = min(size, len(images))
    while True:
        order = images[torch.randperm(len(images), generator=generator)]
        yield from (part for part in torch.split(order, size) if len(part) == size)


@torch.no_grad()
def _loss_of(captured: Captured, lessons: Lessons, images: torch.Tensor) -> float:
    """The mean loss over some images, 0 of none; infinite where it is no number."""
    total = 0.0
    with captured.holding_weights():
        for chosen in torch.split(images, AT_ONCE):
            args = lessons.images(chosen)
            outputs = captured.raw(*args)
            with lessons.in_float(captured):
                targets = captured.raw(*args)
            total += float(divergence(outputs, targets)) * len(chosen)
    return total / max(len(images), 1) if math.isfinite(total) else math.inf
