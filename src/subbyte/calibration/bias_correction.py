"""Biases that take back what quantized weights add to a layer's outputs in the mean."""

from __future__ import annotations

import torch

from subbyte.calibration.biased_layers import biased_layers, key_of, last_layers
from subbyte.calibration.output_correction import Batches, Expected, expected_of, recorded
from subbyte.graph.float_model import FloatModel
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.utils.progress import Progress


@torch.no_grad()
def correct_biases(
    float_model: FloatModel,
    placement: Placement,
    params: QuantParams,
    batches: Batches,
    images: int,
    progress: Progress,
) -> tuple[QuantParams, Expected]:
    """Subtract from each bias what the error of the quantized weight adds to it in the mean.

    b ← b − E[(W_q − W) x], where x are the inputs of the layer in the float network (Nagel et al.
    2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", equation 17,
    with the empirical mean of their appendix). A layer being linear, the mean of its inputs gives
    that of its outputs, exactly. All layers are seen in one pass. Layers without a bias are left as
    they are.

    Args:
        float_model: The model.
        placement: What is quantized.
        params: With the weights' parameters.
        batches: The calibration images.
        images: How many of them are looked at, the first ones.
        progress: Shows how far it is.

    Returns:
        The parameters with the corrected biases, and what `correct_outputs` compares with.
    """
    found = list(biased_layers(float_model, placement))
    layers = {key_of(placed): layer for placed, layer in found}
    last = last_layers(float_model, layers)
    told = "correcting biases"
    judging = recorded(float_model, layers, last, batches, images, progress, told, reading=True)
    shifts: dict[str, list[torch.Tensor]] = {}  # several, where a layer is used again
    own: dict[str, torch.Tensor] = {}
    for placed, layer in found:
        assert placed.weight is not None
        shifts.setdefault(layer.bias, []).append(layer.shift(params.tensors[placed.weight]))
        own[layer.bias] = layer.own
    biases = {n: own[n] - torch.stack(its).mean(0).to(own[n]) for n, its in shifts.items()}
    return params.with_biases(biases), expected_of(layers, last, judging)
