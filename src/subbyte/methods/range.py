"""Rounding to nearest with ranges chosen by a rule: no more than that, and no training."""

from __future__ import annotations

from pydantic import ConfigDict

from subbyte.calibration.observe import activation_ranges, weight_ranges
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import simulate
from subbyte.utils.validation import Checked


class Options(Checked):
    """There are none: the recipe's `ranges` are all that is chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def quantize(
    float_model: FloatModel,
    placement: Placement,
    batches: ArgumentsOf,
    options: Options,
    context: Context,
) -> QuantParams:
    """Choose every range by its rule, those of activations behind quantized weights.

    Args:
        float_model: The model; it is left as it is.
        placement: What is quantized.
        batches: The calibration images.
        options: None.
        context: Progress.
    """
    del options
    params = QuantParams(weight_ranges(float_model, placement, context.progress))
    simulation = simulate(float_model, placement, params)
    found, _ = activation_ranges(simulation, batches, context.progress)
    return params.with_tensors(found)
