"""Every method on detectors, region by region, on lists of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import subbyte
from small_detectors import NAMES, detector, pictures
from subbyte.errors import SubbyteError
from subbyte.graph.blocks import find_blocks
from subbyte.placement.simulation import Captured

BATCHES = [pictures(4, seed=s) for s in range(3)]
STEPS = {"steps": 20, "batch": 4}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "ssd"]
EVERY = ["ssd", *SLOW]


def distortion(quantized: Captured, images: list[torch.Tensor]) -> float:
    """Error of what the heads give over its energy, in the mean over the tensors."""
    with torch.no_grad():
        found = quantized.raw(images)
        with quantized.in_float():
            expected = quantized.raw(images)
    shares = [
        float((a - b).square().sum() / b.square().sum())
        for a, b in zip(found, expected, strict=True)
        if len(a) == len(images)  # proposals of a quantized network are others
    ]
    return sum(shares) / len(shares)


def quantize(name: str, method: Any, **fields: Any) -> Captured:
    recipe = {"weights": 4, "activations": 4, "method": method, **fields}
    return subbyte.quantize(detector(name), BATCHES, subbyte.Recipe(**recipe))


@pytest.mark.parametrize("method", ["range", "bias_correction"])
@pytest.mark.parametrize("name", EVERY)
def test_methods_without_training(name: str, method: str) -> None:
    found = quantize(name, method)
    assert all(q.sqnr_db is not None for _, q in found.quantizers("activation"))
    assert 0 < distortion(found, pictures(2, seed=7)) < 0.3
    assert distortion(quantize(name, method, weights=8, activations=8), pictures(2, seed=7)) < 0.01


@pytest.mark.parametrize("name", EVERY)
def test_the_fit_in_closed_form(name: str) -> None:
    found = quantize(name, {"name": "subbyte", "steps": 10, "batch": 4})
    layers = [note["block"] for note in found.facts.blocks]
    weights = {tensor.layer for tensor, _ in found.quantizers("weight")}
    assert set(layers) == weights
    assert distortion(found, pictures(2, seed=7)) < distortion(
        quantize(name, "range"), pictures(2, seed=7)
    )


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
    blocks = [block.name for region in found.region_names for block in find_blocks(found, region)]
    assert [note["block"] for note in found.facts.blocks][: len(blocks)] == blocks
    assert not any(note["fell_back"] for note in found.facts.blocks)
    assert distortion(found, pictures(2, seed=7)) < 0.3


def test_a_search_over_all_grids() -> None:
    method = {"name": "lapq", "max_evaluations": 30}
    start = quantize("ssd", {**method, "max_evaluations": 0})
    found = quantize("ssd", method)
    images = [image for batch in BATCHES for image in batch]
    assert distortion(found, images) < distortion(start, images)


def test_a_search_needs_outputs_of_images() -> None:
    with pytest.raises(SubbyteError, match="lapq compares what a detector's heads give for each"):
        quantize("fasterrcnn", "lapq")


@pytest.mark.slow
def test_more_steps_learn_more() -> None:
    few = quantize("retinanet", {"name": "qdrop", "steps": 1, "batch": 4}, weights=3)
    many = quantize("retinanet", {"name": "qdrop", "steps": 200, "batch": 4}, weights=3)
    assert distortion(many, pictures(4, seed=2)) < distortion(few, pictures(4, seed=2))


def test_images_of_several_sizes() -> None:
    """torchvision's SSD resizes each; RetinaNet pads to the largest of a batch."""
    batches = [[*pictures(2, (64, 64)), *pictures(1, (48, 80))], pictures(3, (72, 60), seed=4)]
    for name in ("ssd", "retinanet"):
        found = subbyte.quantize(detector(name), batches, subbyte.Recipe(method="bias_correction"))
        assert distortion(found, batches[0]) < 0.01


def test_each_head_is_a_block_with_all_its_levels() -> None:
    found = quantize("retinanet", "range")
    blocks = find_blocks(found, "head")
    assert [block.name for block in blocks] == [
        "head.classification_head.conv.0.0",
        "head.regression_head.conv.0.0",
    ]
    assert [len(list(block.tensors(found, "weight"))) for block in blocks] == [5, 5]
    assert [len(block.inputs) for block in blocks] == [2, 2]
    names = [block.name for block in find_blocks(found, "backbone")]
    assert names == ["backbone.stem.0", "backbone.low.0", "backbone.high.0"]
