"""`sqnr_db` of activations, against what the user's own float module reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import subbyte
from small_detectors import detector, pictures

Read = dict[str, list[torch.Tensor]]  # a layer's name → what it read, batch by batch

IMAGES = 0.005 * torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    """Activations so small that step sizes move far in few steps."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(0.005)
    return made.eval()


def read_by(module: nn.Module, layers: set[str], batches: list[Any]) -> Read:
    """A tensor that no layer reads is named after the module and the operator that do."""
    read: Read = {layer: [] for layer in layers}
    modules = dict(module.named_modules())
    handles = [
        modules[layer if layer in modules else layer.rpartition(".")[0]].register_forward_pre_hook(
            lambda _, args, layer=layer: read[layer].append(args[0].double())
        )
        for layer in layers
    ]
    with torch.no_grad():
        for batch in batches:
            module(batch)
    for handle in handles:
        handle.remove()
    return read


def sqnr_db(values: list[torch.Tensor], row: dict[str, Any]) -> float:
    low = -(2 ** (row["bits"] - 1)) if row["symmetric"] else 0
    high, scale, zero_point = low + 2 ** row["bits"] - 1, row["scale"], row["zero_point"]
    signal = noise = 0.0
    for x in values:
        integers = (x / scale).round().add(zero_point).clamp(low, high)
        signal += float(x.square().sum())
        noise += float(((integers - zero_point) * scale - x).square().sum())
    return 10 * math.log10(signal / noise)


def activation_rows(quantized: nn.Module) -> list[dict[str, Any]]:
    return [row for row in subbyte.layers(quantized) if row["role"] == "activation"]


# Weights of 8 bits: what layers read is what they read in float.
METHODS: list[dict[str, Any]] = [
    {"name": "lapq", "start": "minmax", "max_evaluations": 60},
    {"name": "brecq", "steps": 3, "activation_steps": 60},
    {"name": "qdrop", "steps": 60},
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_it_is_that_of_the_scales_in_the_result(method: dict[str, Any]) -> None:
    def rows(**options: Any) -> list[dict[str, Any]]:
        recipe = subbyte.Recipe(
            weights=8, activations=3, first_last=None, method={**method, **options}
        )
        return activation_rows(subbyte.quantize(model(), list(IMAGES.split(32)), recipe))

    found = rows()
    start = rows(
        **{"lapq": {"max_evaluations": 0}, "brecq": {"activation_steps": 0}}.get(
            method["name"], {"steps": 1}
        )
    )
    moved = [abs(a["scale"] / b["scale"] - 1) for a, b in zip(found, start, strict=True)]
    assert max(moved) > 0.05  # else it would be right without being computed anew
    read = read_by(model(), {row["layer"] for row in found}, list(IMAGES.split(32)))
    for row in found:
        assert row["sqnr_db"] == pytest.approx(sqnr_db(read[row["layer"]], row), abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qdrop", "lapq"])
def test_of_a_detector_too(name: str) -> None:
    options = {"max_evaluations": 20} if name == "lapq" else {"steps": 10, "batch": 4}
    batches = [pictures(4, seed=s) for s in range(2)]
    recipe = subbyte.Recipe(weights=8, activations=4, method={"name": name, **options})
    found = activation_rows(subbyte.quantize(detector("ssd"), batches, recipe))
    modules = dict(detector("ssd").named_modules())
    found = [row for row in found if row["layer"] in modules]
    assert len(found) > 2
    read = read_by(detector("ssd"), {row["layer"] for row in found}, batches)
    for row in found:
        assert row["sqnr_db"] == pytest.approx(sqnr_db(read[row["layer"]], row), abs=0.5)
