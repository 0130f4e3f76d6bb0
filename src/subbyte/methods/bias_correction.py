"""Rounding to nearest, and biases that take back what this adds to a layer's outputs in the mean.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction".
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from subbyte.calibration.bias_correction import correct_biases
from subbyte.calibration.observe import activation_ranges, weight_ranges
from subbyte.calibration.output_correction import correct_outputs
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.methods.common.judged import with_correction
from subbyte.methods.common.judged_ranges import are_free, judged_ranges
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import simulate
from subbyte.utils.validation import Checked


class Options(Checked):
    """What can be set.

    Attributes:
        images: How many of the calibration images the means are taken over.
        judge_ranges: Where the recipe leaves the activations' ranges to the default rule, images
            held out choose among it, wider ranges and plainer rules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(256, ge=1)
    judge_ranges: bool = False


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Choose the weights' ranges and correct the biases, then the activations' and the outputs.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images.
        options: How many images the means are of.
        context: Progress.
    """
    progress, images = context.progress, options.images
    params = QuantParams(weight_ranges(float_model, placement, progress))
    params, expected = correct_biases(float_model, placement, params, batches, images, progress)
    simulation = simulate(float_model, placement, params)
    found, seen = activation_ranges(simulation, batches, progress)
    simulation = simulate(float_model, placement, params.with_tensors(found))
    if options.judge_ranges and are_free(placement):
        params = judged_ranges(simulation, seen, batches)
        simulation = simulate(float_model, placement, params)
    correction = correct_outputs(simulation, expected, batches, images, progress)
    return with_correction(simulation, correction)
