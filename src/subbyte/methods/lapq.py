"""All step sizes together, searched for the least loss of the network.

Nahshan et al. 2019, "Loss Aware Post-training Quantization".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.observe import (
    SampleOfKey,
    activation_ranges,
    channel_rows,
    observe,
    ranges_of,
    weight_ranges,
    with_sqnr,
)
from subbyte.data.batches import ArgumentsOf
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.methods.scale_search.chunks import Chunk, Targets, chunks_of
from subbyte.methods.scale_search.network import ChunkLoss, ScaledNetwork, mean_loss
from subbyte.methods.scale_search.powell import powell
from subbyte.methods.scale_search.scale_vector import ScaleVector, Search
from subbyte.numerics import ranges
from subbyte.numerics.qparams import QuantParams, TensorQParams, quantize_weight
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Choice, Named, choice
from subbyte.utils.progress import Progress
from subbyte.utils.validation import Checked

STAGE = "searching step sizes"
EXPONENTS = (2.0, 2.5, 3.0, 3.5, 4.0)


class Options(Checked):
    """What can be set.

    Attributes:
        start: "lp" fits a parabola to the loss over p and takes the best p for all layers; a range
            rule's name, or {name: RULE, …}, takes that rule.
        search: "scale" moves both ends of a range alike, "clip" each for itself.
        images: How many of the calibration images are looked at, the first ones.
        targets: "labels", the float model's "outputs", or "auto", labels where the batches have
            them.
        max_evaluations: Of the loss, in Powell's search.
        rounds: Of the search, over all scales each; `None`: no limit.
        seconds: That it may take; `None`: no limit.
        step: First width of a line search, in parts of a step size.
        tolerance: Share of the loss below which a round is the last.
        cache_memory: GB of values in front of blocks that are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Named = "lp"
    search: Search = "scale"
    images: int = Field(512, ge=1)
    targets: Targets = "auto"
    max_evaluations: int = Field(1000, ge=0)
    rounds: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    step: float = Field(0.1, gt=0, le=1)
    tolerance: float = Field(0.001, ge=0)
    cache_memory: float = Field(4.0, ge=0)

    @field_validator("start")
    @classmethod
    def _is_a_rule(cls, value: Named) -> Named:
        ranges.check(*choice(value))
        return value


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Start from each layer's own best range, then search all step sizes together.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images, with labels or without.
        options: Of the search.
        context: Progress, and the loss by labels.

    Raises:
        SubbyteError: Labels were asked for and there are none, or they do not fit the outputs.
    """
    chunks, loss = _objective(float_model, batches, options, context)
    progress = context.progress
    if options.start == "lp":
        simulation = simulate(float_model, placement, QuantParams())
        samples = start_by_exponent(simulation, batches, chunks, loss, progress)
    else:
        ruled = _with_rule(placement, choice(options.start))
        found, samples = activation_ranges(
            simulate(float_model, ruled, QuantParams()), batches, progress
        )
        weights = weight_ranges(float_model, ruled, progress)
        params = QuantParams({**weights, **found})
        params = with_room_for_biases(float_model, placement, params)
        simulation = simulate(float_model, placement, params)
    search(simulation, ScaleVector(simulation, options.search), chunks, loss, options, context)
    return with_sqnr(placement, simulation.params, samples)


def _objective(
    float_model: FloatModel, batches: ArgumentsOf, options: Options, context: Context
) -> tuple[list[Chunk], ChunkLoss]:
    """The images with what outputs are compared with, and by what loss."""
    targets = options.targets
    if context.loss is None:
        if targets == "labels":
            raise SubbyteError(
                "targets is 'labels' and how this model is wrong by labels is not known: give "
                "targets: outputs"
            )
        targets = "outputs"
    chunks, labelled = chunks_of(float_model, batches, options.images, targets)
    by_labels, by_outputs = context.loss, float_model.output_loss.mean
    if labelled and by_labels is not None:
        return chunks, lambda outputs, chunk: by_labels(outputs, chunk.targets)
    return chunks, lambda outputs, chunk: by_outputs(outputs, chunk.targets, chunk.args)


def search(
    simulation: Simulation,
    vector: ScaleVector,
    chunks: Sequence[Chunk],
    loss: ChunkLoss,
    options: Options,
    context: Context,
) -> float:
    """Powell's method as far as evaluations and time go; return the loss that was found.

    At first on a quarter of the images, which is enough as long as the minimum is far.

    Args:
        simulation: Its scales are left at the best setting.
        vector: Of this simulation.
        chunks: The images.
        loss: Of the outputs for a chunk.
        options: The method's.
        context: Progress, and who takes the losses.
    """
    started, left = time.monotonic(), options.max_evaluations
    for share, evaluations in ((4, left // 2), (1, left)):
        part = list(chunks[: -(-len(chunks) // share)])
        memory = int(options.cache_memory * 2**30)
        network = ScaledNetwork(simulation, vector, part, loss, memory)
        lines = powell(
            network.evaluate,
            network.best,
            network.value,
            step=options.step / (1 if share > 1 else 2),
            tolerance=options.tolerance,
            rounds=options.rounds,
        )
        count = min(evaluations, left)
        for step, _ in enumerate(context.progress.track(islice(lines, count), STAGE, count)):
            left -= 1
            context.observer.loss(STAGE, "", step, network.value, held_out=False)
            if options.seconds is not None and time.monotonic() - started > options.seconds:
                left = 0
                break
        network.settle()
    return network.value


def start_by_exponent(
    simulation: Simulation,
    batches: ArgumentsOf,
    chunks: Sequence[Chunk],
    loss: ChunkLoss,
    progress: Progress,
) -> SampleOfKey:
    """The ranges of least |Q(x) − x|^p with the p at which a parabola over the losses is lowest.

    Section 4.1 of the paper: the loss over p is smooth, and near its lowest point quadratic.

    Args:
        simulation: Without parameters; it gets those of the best p.
        batches: The calibration images.
        chunks: Those on which the loss is looked at.
        loss: Of the outputs for a chunk.
        progress: Shows how far it is.

    Returns:
        What was seen of each activation.
    """
    seen = observe(simulation, batches, progress)
    samples = {key: histogram.sample() for key, histogram in seen.items()}
    del seen
    of_weights = {
        tensor.key: ranges.sample_of(channel_rows(simulation.weight(tensor), tensor.spec.axis))
        for tensor in simulation.placement.of_role("weight")
    }

    def start_with(p: float) -> float:
        rule = Choice("lp", {"p": p})
        found = _weights_by(simulation, of_weights, rule) | ranges_of(simulation, samples, rule)
        roomy = with_room_for_biases(
            simulation.float_model, simulation.placement, QuantParams(found)
        )
        for key, params in roomy.tensors.items():
            simulation.put(key, params)
        return mean_loss(simulation, chunks, loss)

    losses = {}
    for p in progress.track(EXPONENTS, "fitting the exponent"):
        losses[p] = start_with(p)
    best = lowest(losses)
    if best in losses or start_with(best) > min(losses.values()):
        start_with(min(losses, key=lambda p: losses[p]))
    return samples


def _weights_by(
    simulation: Simulation, samples: SampleOfKey, rule: Choice
) -> dict[str, TensorQParams]:
    """The parameters of all weights by a rule, for what their ranges are chosen by."""
    found = {}
    for tensor in simulation.placement.of_role("weight"):
        scale, zero_point = ranges.choose(*rule, samples[tensor.key], tensor.spec)
        weight = simulation.weight(tensor)
        found[tensor.key] = quantize_weight(weight, scale, zero_point, tensor.spec)
    return found


def _with_rule(placement: Placement, rule: Choice) -> Placement:
    """The same placement with a range rule for all tensors."""
    return replace(placement, tensors=tuple(replace(t, rule=rule) for t in placement.tensors))


def lowest(losses: dict[float, float]) -> float:
    """Where the parabola through p → loss (least squares) is lowest, within what was tried."""
    tried = min(losses, key=lambda p: losses[p])
    if not all(np.isfinite(list(losses.values()))):
        return tried
    curvature, slope, _ = np.polyfit(list(losses), list(losses.values()), 2)
    if curvature <= 0:
        return tried
    return float(np.clip(-slope / (2 * curvature), min(losses), max(losses)))
