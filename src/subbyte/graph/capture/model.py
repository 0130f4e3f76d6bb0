"""From a user's model to a `FloatModel`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.capture.image_lists import with_image_lists
from subbyte.graph.capture.precision import in_float32
from subbyte.graph.capture.regions import capture_regions
from subbyte.graph.fingerprint import fingerprints
from subbyte.graph.float_model import FloatModel, region_of
from subbyte.graph.layers import FoundLayer, find_layers

SHOWN = 3  # layers that a message names for each reason


def capture_model(
    model: nn.Module, args: tuple[Any, ...], regions: tuple[str, ...] | None
) -> FloatModel:
    """Capture a model once, for any number of placements; `model` is left as it is.

    Args:
        model: The user's model.
        args: The positional arguments of one batch.
        regions: Qualified names of the submodules that are captured; ("",) is the whole model,
            `None` those that are found.

    Raises:
        SubbyteError: The model does not run, cannot be captured, or a region has no layer.
    """
    args = with_image_lists(model, args)
    captured, inputs, output_types = in_float32(model, args)
    parts = capture_regions(captured, inputs, regions)
    layers = {name: _layers(region_of(parts.model, name), name) for name in parts.regions}
    parts.model.requires_grad_(False)
    return FloatModel(
        original=captured,
        model=parts.model,
        region_names=parts.regions,
        flow=parts.flow,
        layers=layers,
        example=pytree.tree_map(_shape_only, args),
        signature=inspect.signature(model.forward),
        fingerprints=fingerprints(parts.model, parts.regions),
        output_types=output_types,
    )


def _layers(region: fx.GraphModule, name: str) -> tuple[FoundLayer, ...]:
    layers = tuple(find_layers(region.graph))
    if all(layer.reason for layer in layers):
        what = f"region '{name}'" if name else "model"
        if layers:
            raise SubbyteError(
                f"no layer of the {what} can be quantized: {_reasons(layers)}; give one with a "
                "convolution of one or two dimensions, a linear layer or a matrix product, or "
                "leave it in float"
            )
        raise SubbyteError(
            f"the {what} has no convolution, linear layer or matrix product that could be "
            "quantized: give one with at least one, or leave it in float"
        )
    return layers


def _reasons(layers: tuple[FoundLayer, ...]) -> str:
    """Why layers stay in float, and the names of the first ones; a model itself has none."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        names.setdefault(layer.reason, []).extend([layer.name] * (layer.name != "weight"))
    return "; ".join(
        why + (f" ({', '.join(its[:SHOWN])}{', …' * (len(its) > SHOWN)})" if its else "")
        for why, its in names.items()
    )


def _shape_only(leaf: Any) -> Any:
    """A tensor that has a shape and a type and no memory."""
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, torch.Tensor) else leaf
