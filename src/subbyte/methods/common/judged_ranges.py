"""Ranges of activations by which the model's outputs are better than by those of a rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.observe import SampleOfKey, ranges_of, with_range
from subbyte.graph.batch import EVERY, IMAGES_AT_ONCE, batch_size, in_chunks, is_held_out
from subbyte.graph.output_loss import has_grown, image_losses
from subbyte.numerics.qparams import QuantParams, TensorQParams
from subbyte.numerics.qspec import qparams_of
from subbyte.numerics.ranges.common.sample import within
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Choice

JUDGES = 32  # images, at most
WIDER = (1.25, 1.5)  # times as wide as the rule's range
RULES = ("minmax", "lp")  # plainer ones
DEFAULT = Choice("mse", {})

Judges = list[tuple[tuple[Any, ...], Any]]  # arguments, and the float model's outputs for them


def are_free(placement: Placement) -> bool:
    """Whether a recipe leaves the activations' ranges to Subbyte: all have the default rule."""
    return all(tensor.rule == DEFAULT for tensor in placement.of_role("activation"))


@torch.no_grad()
def judged_ranges(
    simulation: Simulation, samples: SampleOfKey, batches: Iterable[tuple[Any, ...]]
) -> QuantParams:
    """The simulation's parameters with the ranges of activations that are best for the outputs.

    What an error costs is known to first order, and of the images that were seen. Where the rule
    has clipped too much for that, wider ranges or a plainer rule's are better for the model's
    outputs. They are taken where the output loss is lower by more than its standard error.

    Args:
        simulation: All activations have the ranges of the default rule.
        samples: What was seen of each activation.
        batches: The calibration images.

    Returns:
        The parameters, which report what was tried; as they were where outputs are not one row an
        image.
    """
    params, judges = simulation.params, _judges(simulation, batches)
    best = _losses(simulation, params, judges)
    if best is None:
        return params
    name, kept, losses = DEFAULT.name, params, {DEFAULT.name: float(best.mean())}
    for candidate, found in _candidates(simulation, samples):
        tried = with_room_for_biases(
            simulation.float_model, simulation.placement, params.with_tensors(found)
        )
        its = _losses(simulation, tried, judges)
        assert its is not None
        losses[candidate] = float(its.mean())
        if has_grown(its, best):
            name, best, kept = candidate, its, tried
    return kept.with_reported(ranges={"chosen": name, "losses": losses})


def _candidates(
    simulation: Simulation, samples: SampleOfKey
) -> Iterator[tuple[str, dict[str, TensorQParams]]]:
    """Names, and parameters of all activations."""
    for factor in WIDER:
        yield f"{DEFAULT.name} × {factor}", _widened(simulation, samples, factor)
    for rule in RULES:
        yield rule, ranges_of(simulation, samples, Choice(rule, {}))


def _widened(
    simulation: Simulation, samples: SampleOfKey, factor: float
) -> dict[str, TensorQParams]:
    """Ranges so many times as wide, as far as there are values."""
    found = {}
    for tensor, _ in simulation.activations():
        if tensor.key not in samples:
            continue
        now, sample, spec = simulation.params.tensors[tensor.key], samples[tensor.key], tensor.spec
        low, high = ((end - now.zero_point) * now.scale for end in (spec.low, spec.high))
        low, high = within(sample, factor * low.cpu(), factor * high.cpu())
        scale, zero_point = qparams_of(low, high, spec)
        found[tensor.key] = with_range(spec, scale, zero_point, sample)
    return found


def _judges(simulation: Simulation, batches: Iterable[tuple[Any, ...]]) -> Judges:
    """Images with the float model's outputs: every fifth chunk, or the first of fewer images.

    Of few images a fifth is too few to tell ranges apart. A range has two numbers, which many
    values of each image decide, so that the images that it was chosen with judge it well enough.
    """
    at_once = IMAGES_AT_ONCE // 4
    chunks = list(in_chunks(batches, JUDGES * EVERY, at_once))
    if sum(map(batch_size, chunks)) >= JUDGES * EVERY:
        chunks = [chunk for i, chunk in enumerate(chunks) if is_held_out(i)]
    else:
        chunks = chunks[: JUDGES // at_once]
    return [(args, simulation.float_model.raw(*args)) for args in chunks]


def _losses(simulation: Simulation, params: QuantParams, judges: Judges) -> torch.Tensor | None:
    """The output loss of each image; `None` where outputs are not one row an image."""
    network = simulate(simulation.float_model, simulation.placement, params)
    images, targets = zip(*judges, strict=True)
    outputs = (network.raw(*args) for args in images)
    losses = image_losses(simulation.float_model.output_loss, images, targets, outputs)
    return None if losses is None else losses.double()
