"""Learned rounding, layer by layer.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization".
"""

from __future__ import annotations

from dataclasses import replace

from subbyte.calibration.observe import activation_ranges, weight_ranges
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
    """Those that every method has that learns; `steps` are those of each layer."""


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Learn each layer's rounding with activations in float, then choose their ranges.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images.
        options: What is learned of each layer, and how.
        context: Seed, progress, and where finished layers are kept.
    """
    progress = context.progress
    params = QuantParams(weight_ranges(float_model, placement, progress))
    simulation = simulate(float_model, placement, params)
    settings = replace(settings_of(options, "learning layers"), layers=True)
    blocks = reconstruct(simulation, batches, settings, context)
    found, _ = activation_ranges(simulation, batches, progress)
    for key, chosen in found.items():
        simulation.put(key, chosen)
    params = with_correction(simulation, match_outputs(simulation, batches, progress))
    return params.with_reported(blocks=blocks)
