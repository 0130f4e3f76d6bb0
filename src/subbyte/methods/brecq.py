"""Learned rounding, block by block, then learned step sizes of activations.

Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction".
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from subbyte.calibration.observe import activation_ranges, weight_ranges, with_sqnr
from subbyte.calibration.output_correction import match_outputs
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.methods.common.judged import with_correction
from subbyte.methods.reconstruction.blockwise import reconstruct
from subbyte.methods.reconstruction.settings import (
    LearningOptions,
    LearningSettings,
    settings_of,
)
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import simulate


class Options(LearningOptions):
    """What can be set.

    Attributes:
        activation_steps: Of each block's step sizes; `steps` are those of its weights.
    """

    activation_steps: int = Field(1000, ge=0)


def step_size_settings(options: Options) -> LearningSettings:
    """The second pass: step sizes of activations, by the loss |error|^2.4."""
    return replace(
        settings_of(options, "learning step sizes"),
        steps=options.activation_steps,
        rounding=False,
        step_sizes=True,
        exponent=2.4,
    )


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Learn each block's rounding with activations in float; then ranges, and their step sizes.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images.
        options: What is learned of each block, and how.
        context: Seed, progress, and where finished blocks are kept.
    """
    progress = context.progress
    params = QuantParams(weight_ranges(float_model, placement, progress))
    simulation = simulate(float_model, placement, params)
    settings = settings_of(options, "learning weights")
    blocks = reconstruct(simulation, batches, settings, context)
    found, samples = activation_ranges(simulation, batches, progress)
    for key, chosen in found.items():
        simulation.put(key, chosen)
    blocks += reconstruct(simulation, batches, step_size_settings(options), context)
    params = with_correction(simulation, match_outputs(simulation, batches, progress))
    params = with_sqnr(placement, params, samples)
    return params.with_reported(blocks=blocks)
