"""GPTQ with coordinate descent, layer by layer, then straight-through fine-tuning of all together.

Each layer is fitted to what it really reads, behind quantized layers; in the end gradients move
scales, biases and integers of the whole network.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.observe import activation_ranges, weight_ranges, with_sqnr
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.batch import IMAGES_AT_ONCE, in_chunks
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.methods.common.judged_ranges import are_free, judged_ranges
from subbyte.methods.common.resume import keep, restore
from subbyte.methods.finetune.parameters import Rates
from subbyte.methods.finetune.training_data import TuningData, training_data
from subbyte.methods.finetune.tune import RATE_FACTORS, Outcome, Tuning, tune
from subbyte.methods.gptq.chunks import held_out_images
from subbyte.methods.gptq.layer_samples import sampling_for
from subbyte.methods.gptq.layerwise import LayerwiseSettings, quantize_layers
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import simulate
from subbyte.utils.allocator import give_back
from subbyte.utils.validation import Checked

STEPS = 120
LEAST_STEPS = 16  # with fewer, nothing is learned at the rates that so few can have
PIXELS_SEEN = 24_000_000  # by all steps together
MULTIPLY_ADDS = 3e12  # forward, of all steps together
FINISHED = "finished"  # the name under which all is kept in the end
NO_ROWS = "images differ in size, or what the model gives is not one row an image"
FEWER = 1.5  # power of the share of STEPS, where large images get fewer, by which rates go down


class Options(Checked):
    """What can be set.

    Attributes:
        images: Of the calibration, that layers are fitted to (the first ones).
        positions: Rows taken of each, at least. Of detectors whose outputs are known 20,480 of all
            images together, at least.
        steps: Of the tuning; `None`: 120, or as many as look at 24 million pixels or as take 3·10¹²
            multiply-adds forward, if these are fewer. Where these are fewer, all rates are smaller
            and a step has half as many images; where they are fewer than 16, none.
        longer: How many times as many steps, at the same rates, where `steps` is not given.
        batch: Images in a step.
        integers: The rate of integers of 2 bits, in integers a step, twice that for every two bits
            more; 0: they stay.
        features: What the error of what blocks read counts in the tuning at first.
        judge_ranges: Where the recipe leaves the activations' ranges to the default rule, images
            held out choose among it, wider ranges and plainer rules.
        cache_memory: GB of values between layers that are kept in memory; beyond, they lie in
            temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(1024, ge=1)
    positions: int = Field(16, ge=1)
    steps: int | None = Field(None, ge=0)
    longer: float = Field(1.0, gt=0)
    batch: int = Field(32, ge=1)
    integers: float = Field(0.02, ge=0, le=1)
    features: float = Field(100.0, ge=0)
    judge_ranges: bool = False
    cache_memory: float = Field(1.0, ge=0)


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Choose all ranges in the float network, fit layer by layer, then tune the whole network.

    What is finished is kept where finished layers are, and taken from there.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images.
        options: Of the fit and of the tuning.
        context: Seed, progress, and where finished layers are kept.
    """
    resume = context.resume
    kept = None if resume is None else restore(resume, FINISHED, float_model.device)
    if kept is not None:
        params, _, reported = kept
        return params.with_reported(**reported)
    params = _found(float_model, placement, batches, options, context)
    if resume is not None:
        keep(resume, FINISHED, params, dict(params.reported))
    return params


def _found(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    params = QuantParams(weight_ranges(float_model, placement, context.progress))
    simulation = simulate(float_model, placement, QuantParams())
    found, seen = activation_ranges(simulation, batches, context.progress)
    if options.judge_ranges and are_free(placement):
        simulation = simulate(float_model, placement, QuantParams(found))
        judged = judged_ranges(simulation, seen, batches)
        found, params = dict(judged.tensors), params.with_reported(**judged.reported)
    params = with_room_for_biases(float_model, placement, params.with_tensors(found))
    give_back()
    images = list(in_chunks(batches, options.images, IMAGES_AT_ONCE))
    data = training_data(float_model, images, options.images, held_out_images)
    if data is not None:
        images = data.chunks(IMAGES_AT_ONCE)  # so that they are in memory once
    sampling = sampling_for(float_model.output_loss, options.positions)
    settings = LayerwiseSettings(int(options.cache_memory * 2**30), sampling)
    params = quantize_layers(float_model, placement, params, images, settings, context)
    give_back()
    if options.steps == 0:
        return params
    if data is None:
        return params.with_reported(tuning={"steps": 0, "kept": False, "why": NO_ROWS})
    tuning = tuning_of(options, data)
    if tuning.steps == 0:
        return params
    params, outcome = tune(float_model, placement, params, data, tuning, context)
    params = params.with_reported(tuning=_reported(tuning.steps, outcome))
    return with_sqnr(placement, params, seen)


def tuning_of(options: Options, data: TuningData) -> Tuning:
    """How a network is tuned on some images."""
    steps, batch, share = options.steps, options.batch, 1.0
    if steps is None:
        steps, batch = steps_for(data.pixels, data.multiply_adds, batch)
        share = min(1.0, steps / STEPS) ** FEWER
        steps = round(options.longer * steps)
    rates = Rates(integers=options.integers * share).times(share)
    # The first factor is too much for few steps.
    factors = RATE_FACTORS if share == 1 else RATE_FACTORS[1:]
    return Tuning(steps, batch, rates, options.features, factors)


def steps_for(pixels: int, multiply_adds: float, batch: int) -> tuple[int, int]:
    """Steps and images in each: fewer of both for large images and for large networks.

    Args:
        pixels: Of an image.
        multiply_adds: For one, forward.
        batch: Images in a step, where there are all steps.

    Returns:
        Both; 0 steps where there would be too few to learn anything.
    """
    looks = min(PIXELS_SEEN / pixels, MULTIPLY_ADDS / max(1.0, multiply_adds))
    if looks >= STEPS * batch:
        return STEPS, batch
    batch = max(1, batch // 2)
    steps = min(STEPS, int(looks / batch))
    return (steps if steps >= LEAST_STEPS else 0), batch


def _reported(steps: int, outcome: Outcome) -> dict[str, Any]:
    """How the tuning went, for the results."""
    refused = [{"rates": factor, "why": why} for factor, why in outcome.refused.items()]
    found: dict[str, Any] = {"steps": steps, "kept": outcome.kept, "rates": outcome.factor}
    if not outcome.kept:
        found["why"] = refused[-1]["why"]
    losses = {"loss_before": outcome.loss_before, "loss": outcome.loss}
    return {**found, "refused": refused, **losses}
