"""What a recipe asks for each layer: the numerics of its weight, the bits of its inputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from subbyte.graph.float_model import qualified
from subbyte.graph.layers import FoundLayer
from subbyte.numerics.qspec import QSpec
from subbyte.recipe import Choice, Override, Recipe, rule_of


@dataclass(frozen=True)
class LayerConfig:
    """What a recipe asks for one layer.

    Attributes:
        weight: The integers of its weight; `None`: it stays in float.
        activation_bits: Of its inputs; `None`: they stay in float.
        weight_rule: The range rule for the weight.
        activation_rule: The range rule for the inputs.
        accumulator: Bits of its integer sums.
    """

    weight: QSpec | None
    activation_bits: int | None
    weight_rule: Choice
    activation_rule: Choice
    accumulator: int = 32


def layer_configs(
    layers: Sequence[FoundLayer], edge: Collection[str], recipe: Recipe, region: str
) -> dict[str, LayerConfig]:
    """What a recipe asks for each layer, by the layer's name in the region.

    Layers that cannot be quantized are left out.

    Args:
        layers: The layers of a region.
        edge: The names of those that stand first or last in the model.
        recipe: What is asked for.
        region: The region's qualified name.
    """
    edge = edge if recipe.first_last is not None else ()
    configs = {}
    for layer in layers:
        if layer.reason:
            continue
        name = qualified(region, layer.name)
        override = next(
            (o for pattern, o in recipe.overrides.items() if re.fullmatch(pattern, name)),
            Override(),
        )
        weight_axis = layer.axis if layer.weight is not None else None
        configs[layer.name] = _config(recipe, override, layer.name in edge, weight_axis)
    return configs


def _config(recipe: Recipe, override: Override, edge: bool, axis: int | None) -> LayerConfig:
    given = override.model_fields_set
    weights, activations = recipe.weights, recipe.activations
    if edge:
        weights = recipe.first_last if weights is not None else None
        activations = recipe.first_last if activations is not None else None
    weights = override.weights if "weights" in given else weights
    activations = override.activations if "activations" in given else activations
    per_channel = recipe.per_channel if override.per_channel is None else override.per_channel
    ranges = recipe.ranges if override.ranges is None else override.ranges
    spec = None
    if weights is not None and axis is not None:
        spec = _weight_spec(recipe, override, weights, axis if per_channel else None)
    accumulator = recipe.accumulator if override.accumulator is None else override.accumulator
    return LayerConfig(
        spec, activations, rule_of(ranges, "weights"), rule_of(ranges, "activations"), accumulator
    )


def _weight_spec(recipe: Recipe, override: Override, bits: int, axis: int | None) -> QSpec:
    """The integers of a weight for which `bits` bits are asked.

    With `reduce_range` no integer, less its zero point, is beyond ±64, so that the sum of two
    products with uint8 fits into 16 bits: 7 bits if symmetric, which are the default there as they
    are at 8 bits, and 6 if not.
    """
    reduced = recipe.reduce_range and bits >= 7
    symmetric = recipe.weights_symmetric(8 if reduced else bits, override.symmetric_weights)
    if reduced:
        bits = 7 if symmetric else 6
    return QSpec(bits, symmetric, axis)
