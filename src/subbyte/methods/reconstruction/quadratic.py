"""The squared error of a layer that nothing follows, over all images at once.

It is quadratic in the weights, so that sums over what the layer reads and should give tell its
value and its gradient at any weights: a product of two matrices takes the place of a convolution of
many images and of its gradient. The error is that of Nagel et al. 2020, equation 21.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

from subbyte.calibration.biased_layers import bias_name
from subbyte.graph.blocks import Block
from subbyte.methods.common.activation_cache import Values
from subbyte.methods.common.hessian import HessianAccumulator
from subbyte.methods.common.samples import (
    Geometry,
    as_matrices,
    as_weight,
    geometry_of,
    input_rows,
    output_rows,
    positions,
)
from subbyte.placement.placement import node_names
from subbyte.placement.simulation import Simulation

NUMBERS_AT_ONCE = 2**24  # of the rows of inputs that are in memory at a time


class Quadratic:
    """Mean over rows of Σ over outputs (w · x + b − t)², as a function of the weight."""

    def __init__(self, sums: HessianAccumulator, weight: torch.Tensor, geometry: Geometry) -> None:
        """The error of a layer.

        Args:
            sums: Of inputs x and of targets t less the bias b.
            weight: The float weight, from which differences are counted.
            geometry: How the layer reads its input.
        """
        self.weight, self.geometry = weight, geometry
        self.start = as_matrices(weight, geometry)
        self.first = float(sums.loss(self.start, None).sum())
        self.h, c = sums.normal(centred=False)
        # Gradients from the float weight on: from 0 on they would be small differences.
        self.slope = 2 * (self.start @ self.h - c.transpose(1, 2))

    def at(self, weight: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The error at a weight, and its gradient there in the weight's shape."""
        moved = as_matrices(weight, self.geometry) - self.start
        curved = 2 * moved @ self.h
        loss = self.first + float((moved * (self.slope + curved / 2)).sum())
        return loss, as_weight(self.slope + curved, self.weight, self.geometry)


def quadratic_of(
    simulation: Simulation,
    unit: Block,
    inputs: Sequence[Values],
    targets: Sequence[torch.Tensor],
    steps: int,
    images: int,
) -> Quadratic | None:
    """The error of a single layer; `None` where something follows it, or where it takes longer.

    Args:
        simulation: Activations in the unit pass in float.
        unit: The layer, with what follows it.
        inputs: What it reads on all images.
        targets: What it should give.
        steps: How often the error is looked at.
        images: On how many it would be looked at otherwise, in a step.
    """
    layers = [n for n in unit.module.graph.nodes if n.op in ("call_function", "call_method")]
    weights = list(simulation.quantizers_in(unit.module, "weight"))
    if not len(layers) == len(weights) == len(inputs) == len(targets) == 1:
        return None
    weight = simulation.weight(weights[0][0])
    geometry = geometry_of(layers[0], weight)
    if not _pays(targets[0], as_matrices(weight, geometry), geometry, steps, images):
        return None
    bias = _bias(simulation, unit)
    sums = _sums(inputs[0].quantized, targets[0], bias, weight, geometry)
    return Quadratic(sums, weight, geometry)


def _bias(simulation: Simulation, unit: Block) -> torch.Tensor | None:
    """What a layer that nothing follows adds in float."""
    region = simulation.float_model.region(unit.region)
    name = bias_name(node_names(region.graph)[unit.outputs[0].name])
    if name is None:
        return None
    bias: torch.Tensor = operator.attrgetter(name)(region)
    return bias


def _pays(
    target: torch.Tensor, matrices: torch.Tensor, geometry: Geometry, steps: int, images: int
) -> bool:
    """Whether this multiplies fewer numbers than the layer and its gradient do in all steps."""
    groups, outputs, inputs = matrices.shape
    rows = positions(target[:1], geometry) * groups
    sums = len(target) * rows * inputs * (inputs + outputs)
    products = steps * groups * outputs * inputs**2
    return sums + products < steps * images * rows * outputs * inputs * 2


def _sums(
    given: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    geometry: Geometry,
) -> HessianAccumulator:
    """Over all rows of all images, with targets less the bias."""
    matrices = as_matrices(weight, geometry)
    sums = HessianAccumulator.none(matrices)
    each = positions(target[:1], geometry) * matrices.shape[0] * matrices.shape[2]
    size = max(1, NUMBERS_AT_ONCE // each)
    for some in zip(torch.split(given, size), torch.split(target, size), strict=True):
        x, t = (values.to(weight.device) for values in some)
        every = torch.arange(positions(t, geometry), device=weight.device)
        wanted = output_rows(t, every, geometry)
        if bias is not None:
            wanted = wanted - bias.reshape(wanted.shape[1:])
        sums.add(input_rows(x, every, geometry), wanted)
    return sums
