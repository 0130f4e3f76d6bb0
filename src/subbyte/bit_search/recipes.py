"""From what was measured to what can be chosen, and from what was chosen to a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from subbyte.bit_search.choose import Chosen, Option, Shared, Unit
from subbyte.bit_search.costs import FLOAT_BITS, table_bytes, weight_forms
from subbyte.bit_search.sensitivity import LayerLoss, Sensitivity
from subbyte.bit_search.settings import Search
from subbyte.placement.placement import Placement
from subbyte.recipe import Override, Recipe
from subbyte.targets.onnx.planes import WIDTHS


def override_of(recipe: Recipe, layer: str) -> Override:
    """What a recipe's overrides say of a layer: the first one that matches."""
    found = (o for pattern, o in recipe.overrides.items() if re.fullmatch(pattern, layer))
    return next(found, Override())


def weight_widths(recipe: Recipe, layer: str, search: Search) -> tuple[int, ...]:
    """The bits that a layer's weight may have: those of the search, or the one of its pin.

    Args:
        recipe: What holds for all configurations.
        layer: The layer's qualified name.
        search: What is asked for.
    """
    pin = override_of(recipe, layer)
    if search.objective == "latency":
        return (pin.weights or max(search.weights),)
    pinned = "weights" in pin.model_fields_set and pin.weights is not None
    return (pin.weights,) if pinned and pin.weights is not None else search.weights


def units_by_size(sensitivity: Sensitivity) -> list[Unit]:
    """The weights, each with its bytes in the file in each form of each width, and in float."""

    def options(layer: LayerLoss) -> tuple[Option, ...]:
        widths: dict[int | None, float] = dict(layer.losses.items())
        if len(widths) > 1:  # a pin is one
            widths[None] = 0.0
        return tuple(
            Option(bits, None, size, loss, None if table is None else tables[table])
            for bits, loss in widths.items()
            for table, size in weight_forms(layer.count, layer.channels, bits).items()
        )

    tables = {width: Shared(f"{width} bits", table_bytes(width)) for width in WIDTHS}
    return [Unit(layer.layer, options(layer)) for layer in sensitivity.of_role("weight")]


def units_by_bits(
    sensitivity: Sensitivity,
    placement: Placement,
    multiply_adds: Mapping[str, float],
    pinned: Callable[[str], int | None],
) -> list[Unit]:
    """The layers, each with its multiply-adds × bits of weights × bits of activations.

    Layers that read one tensor are tied; a product of two activations ties the two.

    Args:
        sensitivity: Of weights and of activations.
        placement: Which layer reads which tensors.
        multiply_adds: Layer → for one image.
        pinned: The bits of activations at which a layer is pinned; `None`: it is not.
    """
    weights = {one.key: one for one in sensitivity.of_role("weight")}
    activations = {one.key: one for one in sensitivity.of_role("activation")}
    layers = [x for x in placement.layers if x.weight in weights or x.activations]
    group = _grouped([[key for key in x.activations if key in activations] for x in layers])
    members: dict[str, list[str]] = {}
    for key, root in group.items():
        members.setdefault(root, []).append(key)
    units, counted, named = [], set[str](), set[str]()
    for layer in layers:
        if layer.name in named:  # several layers of one weight are decided once
            continue
        named.add(layer.name)
        own = [group[key] for key in layer.activations if key in group]
        tied = own[0] if own else ""
        acts: dict[int | None, float] = {None: 0.0}
        if tied:
            keys = members[tied]
            widths = set.intersection(*[set(activations[key].losses) for key in keys])
            pins = {b for b in (pinned(r) for key in keys for r in activations[key].readers) if b}
            widths = {max(pins)} if pins else widths
            once = tied not in counted
            acts = {
                bits: sum(activations[key].losses.get(bits, 0.0) for key in keys) * once
                for bits in sorted(widths)
            }
            counted.add(tied)
        own_weight = weights.get(str(layer.weight))
        losses = own_weight.losses if own_weight is not None else {None: 0.0}
        count = multiply_adds.get(layer.name, 0.0)
        options = [
            Option(w, a, count * (w or _other(w, a)) * (a or FLOAT_BITS), loss + act)
            for w, loss in losses.items()
            for a, act in acts.items()
        ]
        units.append(Unit(layer.name, tuple(options), tied))
    return units


def _other(weights: int | None, activations: int | None) -> int:
    """The bits of the second factor of a product of activations."""
    return FLOAT_BITS if weights is None and activations is None else activations or FLOAT_BITS


def _grouped(sets: Sequence[Sequence[str]]) -> dict[str, str]:
    """Each key with the first of those that hang together by sets that have both."""
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for keys in sets:
        for key in keys:
            root[find(key)] = find(keys[0])
    return {key: find(key) for key in root}


def recipe_for(base: Recipe, units: Sequence[Unit], chosen: Chosen) -> Recipe:
    """The recipe of a configuration: the base with an override for each layer.

    Args:
        base: What holds for all configurations; its overrides keep what they say beside bits.
        units: What was decided.
        chosen: What was chosen of each.
    """
    if all(o.weights is None and o.activations is None for o in chosen.options):
        return Recipe(**{**base.as_dict(), "weights": None, "activations": None})
    overrides: dict[str, Any] = {}
    for unit, option in zip(units, chosen.options, strict=True):
        fields = override_of(base, unit.name).model_dump(exclude_unset=True)
        decided: dict[str, int | None] = {}
        if option.weights is not None or option.activations is None:
            decided["weights"] = option.weights
        if option.activations is not None or option.weights is None:
            decided["activations"] = option.activations
        overrides[re.escape(unit.name)] = {**fields, **decided}
    for pattern, override in base.overrides.items():
        overrides.setdefault(pattern, override.model_dump(exclude_unset=True))
    return Recipe(**{**base.as_dict(), "overrides": overrides})
