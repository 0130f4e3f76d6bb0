"""Learned rounding and step sizes, block by block, with activations quantized at random.

Wei et al. 2022, "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training
Quantization".
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.observe import activation_ranges, weight_ranges, with_sqnr
from subbyte.calibration.output_correction import match_outputs
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.methods.common.judged import with_correction
from subbyte.methods.reconstruction.blockwise import reconstruct
from subbyte.methods.reconstruction.settings import LearningOptions, settings_of
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import simulate


class Options(LearningOptions):
    """What can be set.

    Attributes:
        drop: The share of values that stay in float.
    """

    drop: float = Field(0.5, ge=0, le=1)


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Choose all ranges in the float network, then learn rounding and step sizes of each block.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images.
        options: What is learned of each block, and how.
        context: Seed, progress, and where finished blocks are kept.
    """
    progress = context.progress
    weights = weight_ranges(float_model, placement, progress)
    unquantized = simulate(float_model, placement, QuantParams())
    found, samples = activation_ranges(unquantized, batches, progress)
    params = QuantParams({**weights, **found})
    params = with_room_for_biases(float_model, placement, params)
    simulation = simulate(float_model, placement, params)
    settings = replace(settings_of(options, "learning blocks"), step_sizes=True, drop=options.drop)
    blocks = reconstruct(simulation, batches, settings, context)
    params = with_correction(simulation, match_outputs(simulation, batches, progress))
    params = with_sqnr(placement, params, samples)
    return params.with_reported(blocks=blocks)
