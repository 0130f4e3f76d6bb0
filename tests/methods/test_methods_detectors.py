"""Every method on detectors, region by region, on lists of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import subbyte
from small_detectors import NAMES, detector, pictures
from subbyte.errors import SubbyteError
from subbyte.methods.common.simulated_blocks import blocks_of
from subbyte.placement.simulation import Simulation

pytestmark = pytest.mark.slow

BATCHES = [pictures(4, seed=s) for s in range(3)]
STEPS = {"steps": 20, "batch": 4}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "ssd"]
EVERY = ["ssd", *SLOW]


def float_outputs(
    module: nn.Module, quantized: Simulation, images: list[torch.Tensor]
) -> list[torch.Tensor]:
    """What the user's own module gives where the quantized one's raw outputs are."""
    given: list[torch.Tensor] = []

    def keeper(name: str) -> Any:
        def keep(_: nn.Module, __: Any, outputs: Any) -> None:
            leaves = enumerate(pytree.tree_leaves(outputs))
            given.extend(x for i, x in leaves if not quantized.flow.readers((name, i)))

        return keep

    handles = [
        module.get_submodule(name).register_forward_hook(keeper(name))
        for name in quantized.region_names
    ]
    with torch.no_grad():
        module(images)
    for handle in handles:
        handle.remove()
    return given


def distortion(module: nn.Module, quantized: Simulation, images: list[torch.Tensor]) -> float:
    """Error of what the heads give over its energy, in the mean over the tensors."""
    with torch.no_grad():
        found = quantized.raw(images)
    pairs = zip(found, float_outputs(module, quantized, images), strict=True)
    shares = [
        float((a - b).square().sum() / b.square().sum())
        for a, b in pairs
        if len(a) == len(images)  # proposals of a quantized network are others
    ]
    assert shares
    return sum(shares) / len(shares)


def quantize(name: str, method: Any, **fields: Any) -> Simulation:
    recipe = {"weights": 4, "activations": 4, "method": method, **fields}
    return subbyte.quantize(detector(name), BATCHES, subbyte.Recipe(**recipe))


@pytest.mark.parametrize("method", ["range", "bias_correction"])
@pytest.mark.parametrize("name", EVERY)
def test_methods_without_training(name: str, method: str) -> None:
    found = quantize(name, method)
    assert all(q.sqnr_db is not None for _, q in found.activations())
    assert 0 < distortion(detector(name), found, pictures(2, seed=7)) < 0.3
    wide = quantize(name, method, weights=8, activations=8)
    assert distortion(detector(name), wide, pictures(2, seed=7)) < 0.01


@pytest.mark.parametrize("name", EVERY)
def test_the_fit_in_closed_form(name: str) -> None:
    found = quantize(name, {"name": "subbyte", "steps": 10, "batch": 4})
    layers = [note["block"] for note in found.reported["blocks"]]
    weights = {tensor.layer for tensor, _ in found.weights()}
    assert set(layers) == weights
    nearest, images = quantize(name, "range"), pictures(2, seed=7)
    assert distortion(detector(name), found, images) < distortion(detector(name), nearest, images)


@pytest.mark.parametrize("name", ["ssd", pytest.param("fasterrcnn", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "adaround", **STEPS},
        {"name": "brecq", "activation_steps": 10, "fisher": True, **STEPS},
        {"name": "qdrop", **STEPS},
    ],
)
def test_methods_that_learn(name: str, method: Any) -> None:
    found = quantize(name, method)
    blocks = [x.name for region in found.region_names for x in blocks_of(found, region)]
    assert [note["block"] for note in found.reported["blocks"]][: len(blocks)] == blocks
    assert not any(note["fell_back"] for note in found.reported["blocks"])
    assert distortion(detector(name), found, pictures(2, seed=7)) < 0.3


def test_a_search_over_all_scales() -> None:
    method = {"name": "lapq", "max_evaluations": 30}
    start = quantize("ssd", {**method, "max_evaluations": 0})
    found = quantize("ssd", method)
    images = [image for batch in BATCHES for image in batch]
    own = detector("ssd")
    assert distortion(own, found, images) < distortion(own, start, images)


def test_a_search_needs_outputs_of_images() -> None:
    with pytest.raises(SubbyteError, match="lapq compares what a detector's heads give for each"):
        quantize("fasterrcnn", "lapq")


@pytest.mark.slow
def test_more_steps_learn_more() -> None:
    few = quantize("retinanet", {"name": "qdrop", "steps": 1, "batch": 4}, weights=3)
    many = quantize("retinanet", {"name": "qdrop", "steps": 200, "batch": 4}, weights=3)
    own, images = detector("retinanet"), pictures(4, seed=2)
    assert distortion(own, many, images) < distortion(own, few, images)


def test_images_of_several_sizes() -> None:
    """torchvision's SSD resizes each; RetinaNet pads to the largest of a batch."""
    batches = [[*pictures(2, (64, 64)), *pictures(1, (48, 80))], pictures(3, (72, 60), seed=4)]
    for name in ("ssd", "retinanet"):
        found = subbyte.quantize(detector(name), batches, subbyte.Recipe(method="bias_correction"))
        assert distortion(detector(name), found, batches[0]) < 0.01


def test_each_head_is_a_block_with_all_its_levels() -> None:
    found = quantize("retinanet", "range")
    blocks = blocks_of(found, "head")
    assert [block.name for block in blocks] == [
        "head.classification_head.conv.0.0",
        "head.regression_head.conv.0.0",
    ]
    assert [len(list(found.quantizers_in(b.module, "weight"))) for b in blocks] == [5, 5]
    assert [len(block.inputs) for block in blocks] == [2, 2]
    names = [block.name for block in blocks_of(found, "backbone")]
    assert names == ["backbone.stem.0", "backbone.low.0", "backbone.high.0"]
