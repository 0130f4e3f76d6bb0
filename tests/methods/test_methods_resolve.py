from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from subbyte import Recipe, SubbyteError, layers, methods, quantize
from subbyte.recipe import Choice, method_names

BATCHES = [torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]


def test_auto_keeps_its_options() -> None:
    recipe = Recipe(method={"name": "auto", "images": 3})
    assert methods.resolve(recipe) == Choice("bias_correction", {"judge_ranges": True, "images": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "bias_correction"),
        ({"weights": None}, "bias_correction"),
        ({"weights": None, "activations": None}, "bias_correction"),
        ({"weights": 4}, "subbyte"),
        ({"activations": 7}, "subbyte"),
        ({"weights": None, "activations": 4}, "subbyte"),
        ({"overrides": {".*": {"weights": 4}}}, "subbyte"),
        ({"weights": 4, "method": "range"}, "range"),
    ],
)
def test_auto_is_chosen_by_the_fewest_bits(fields: dict[str, Any], expected: str) -> None:
    recipe = Recipe(**fields)
    assert methods.resolve(recipe).name == expected
    quantized = quantize(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), BATCHES, recipe)
    assert quantized.metadata["method"] == expected


def test_auto_fits_a_detector_layer_by_layer_at_8_bits_too() -> None:
    found = methods.resolve(Recipe(), detector=True)
    assert found == Choice("subbyte", {"steps": 0, "judge_ranges": True})
    assert methods.resolve(Recipe(weights=4), detector=True) == methods.resolve(Recipe(weights=4))
    asked = Recipe(method="bias_correction")
    assert methods.resolve(asked, detector=True) == methods.resolve(asked)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SubbyteError, match=r"unknown method 'rang': did you mean 'range'\?"):
        methods.resolve(Recipe(method="rang"))


@pytest.mark.parametrize("name", [n for n in method_names() if n != "auto"])
def test_every_method_has_options_with_defaults_and_can_quantize(name: str) -> None:
    method = methods.method(name)
    assert method.Options() == method.Options()
    assert callable(method.quantize)


def test_the_range_method_takes_no_options() -> None:
    with pytest.raises(SubbyteError, match="unknown key 'steps'"):
        methods.method("range").Options(steps=3)
    with pytest.raises(SubbyteError, match="unknown key 'steps'"):
        quantize(nn.Linear(4, 2), BATCHES, Recipe(method={"name": "range", "steps": 3}))


def test_the_range_method_rounds_weights_to_the_nearest_integers_of_its_rule() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.4, 0.6, 2.0]]))
    recipe = Recipe(weights=2, first_last=None, ranges="minmax", method="range")
    quantized = quantize(model, BATCHES, recipe)
    row = next(row for row in layers(quantized) if row["role"] == "weight")
    assert (row["scale"], row["zero_point"]) == ([1.0], [1])
    tensor, quantizer = next(quantized.weights())
    assert quantizer(quantized.weight(tensor)).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    assert quantizer.integers is not None
    assert quantizer.integers.tolist() == [[0, 1, 2, 3]]
