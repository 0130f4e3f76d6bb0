from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import subbyte
from residual import Residual
from small_detectors import detector
from subbyte.errors import SubbyteError

PLAIN: dict[str, Any] = {"method": "range", "ranges": "minmax", "balance": False}
EXACT = 1e-6  # of what float32 computes


class Two(nn.Module):
    """Two matrices, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 0.4], [-2.0, 0.3]])
        self.second.weight.data = torch.tensor([[0.5, -0.8]])

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((self.body(x) + x).relu().mean((2, 3)))


class Attention(nn.Module):
    """A block of a transformer, with a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(-2, -1) / 3).softmax(-1) @ v)
        return self.head(x.mean(1))


def relative(found: Tensor, exact: Tensor) -> float:
    """By NumPy's norms, in float64."""
    error = (found - exact).double().square().sum()
    return float(error / exact.double().square().sum())


def recipe_of(weights: int, activations: int = 4, **fields: Any) -> subbyte.Recipe:
    return subbyte.Recipe(weights=weights, activations=activations, method="range", **fields)


def leaves(outputs: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_weights_of_two_layers_by_hand() -> None:
    # Scales by the extremes: 1 and 0.5, integers from -2 to 1. The first matrix becomes
    # [[1, 0], [-2, 0]], the second one [[0.5, -1]]. Of x = [1, 2], float gives h = [1.8, -1.4] and
    # y = 2.02; the first alone h = [1, -2], y = 2.1; the second alone 2.3; both 2.5.
    recipe = subbyte.Recipe(
        weights=2,
        activations=None,
        symmetric_weights=True,
        per_channel=False,
        first_last=None,
        **PLAIN,
    )
    x = torch.tensor([[1.0, 2.0]])
    quantized = subbyte.quantize(Two(), [x], recipe)
    found = subbyte.diagnose(quantized, [x])
    first, second = found.layers
    assert [layer.layer for layer in found.layers] == ["first", "second"]
    h = (0.8**2 + 0.6**2) / (1.8**2 + 1.4**2)
    assert first.own_error == first.accumulated_error == pytest.approx(h, rel=EXACT)
    assert first.alone_error == pytest.approx((0.08 / 2.02) ** 2, rel=1e-4)
    assert second.own_error == second.alone_error == pytest.approx((0.28 / 2.02) ** 2, rel=1e-4)
    assert second.accumulated_error == pytest.approx((0.48 / 2.02) ** 2, rel=1e-4)
    assert found.output_error == pytest.approx((0.48 / 2.02) ** 2, rel=1e-4)
    assert first.alone_share == pytest.approx(0.08**2 / (0.08**2 + 0.28**2), rel=1e-4)
    assert (found.images, found.alone_images) == (1, 1)
    weight = first.weight
    assert weight is not None
    assert weight.channels.low == pytest.approx((0.4, -2.0))
    assert weight.channels.high == pytest.approx((1.0, 0.3))
    assert weight.channels.grid_low == pytest.approx((-2.0, -2.0))
    assert weight.channels.grid_high == pytest.approx((1.0, 1.0))


def test_an_activation_by_hand() -> None:
    # From 0 to 3 there are four integers of 2 bits, one apart; 1.4 becomes 1, and 4 becomes 3.
    recipe = subbyte.Recipe(weights=None, activations=2, first_last=None, **PLAIN)
    model = Two()
    model.second.weight.data = torch.tensor([[1.0, 0.0]])
    quantized = subbyte.quantize(model, [torch.tensor([[1.4, 3.0], [0.0, 0.0]])], recipe)
    found = subbyte.diagnose(quantized, [torch.tensor([[1.4, 4.0], [1.0, 0.0]])])
    (read,) = found.layers[0].activations
    assert (read.scale, read.grid_low, read.grid_high, read.steps) == (1.0, 0.0, 3.0, 4)
    assert read.clipped == 1 / 4
    assert (read.low, read.high) == (0.0, 4.0)
    assert read.histogram is not None
    assert sum(read.histogram.counts) == 4
    assert read.histogram.counts[0] == read.histogram.counts[-1] == 1
    noise, signal = 0.4**2 + 1.0**2, 1.4**2 + 4.0**2 + 1.0**2
    assert read.sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-5)
    # Of [1.4, 4] the first matrix makes [3, -1.6] and of [1, 3] it makes [2.2, -1.1].
    error = (0.8**2 + 0.5**2) / (3.0**2 + 1.6**2 + 1.0**2 + 2.0**2)
    assert found.layers[0].own_error == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("weights", [8, 3])
def test_what_has_added_up_at_the_last_layer_is_the_error_of_the_output(
    weights: int, trained: Any
) -> None:
    model, images = trained(Classifier()), normal(8, 3, 9, 9)
    quantized = subbyte.quantize(model, [images], recipe_of(weights))
    found = subbyte.diagnose(quantized, [images[:3], images[3:]], alone_images=4)
    with torch.no_grad():
        error = relative(quantized(images), model(images))
    last = found.layers[-1]
    assert last.layer == "head"
    assert last.accumulated_error == found.output_error == pytest.approx(error, rel=1e-4)
    assert found.images == 8
    assert 4 <= found.alone_images < 8
    assert sum(layer.alone_share or 0 for layer in found.layers) == pytest.approx(1)


@pytest.mark.slow
def test_a_layer_alone_is_a_model_with_that_layer_alone_quantized(trained: Any) -> None:
    model, images = trained(Classifier()), normal(6, 3, 9, 9)
    recipe = {"weights": 4, "activations": None, "first_last": None, **PLAIN}
    quantized = subbyte.quantize(model, [images], subbyte.Recipe(**recipe))
    found = {x.layer: x for x in subbyte.diagnose(quantized, [images]).layers}
    for name, layer in found.items():
        alone = subbyte.Recipe(**recipe, overrides={f"(?!{name}$).*": {"weights": None}})
        with torch.no_grad():
            outputs = subbyte.quantize(model, [images], alone)(images)
            expected = relative(outputs, model(images))
        assert layer.alone_error == pytest.approx(expected, rel=1e-3), name


def test_a_block_of_a_transformer(trained: Any) -> None:
    model, tokens = trained(Attention()), normal(6, 5, 8)
    quantized = subbyte.quantize(model, [tokens], recipe_of(4))
    found = subbyte.diagnose(quantized, [tokens])
    kinds = [layer.kind for layer in found.layers]
    assert kinds == ["linear", "matmul", "matmul", "linear", "linear"]
    assert [len(layer.activations) for layer in found.layers] == [1, 2, 2, 1, 1]
    with torch.no_grad():
        error = relative(quantized(tokens), model(tokens))
    assert found.layers[-1].accumulated_error == pytest.approx(error, rel=1e-4)
    assert all(layer.alone_error for layer in found.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd", "retinanet"])
def test_a_detector_in_regions(name: str) -> None:
    model, images = detector(name), [torch.rand(3, 64, 64) for _ in range(3)]
    quantized = subbyte.quantize(model, [images], recipe_of(4, 8))
    found = subbyte.diagnose(quantized, [images[:2], images[2:]], alone_images=2)
    raw, exact = leaves(quantized.raw(images)), leaves(quantized.float_model.raw(images))
    assert len(quantized.region_names) > 1
    assert {layer.region for layer in found.layers} == set(quantized.region_names)
    assert all(layer.alone_error for layer in found.layers if not layer.left_in_float)
    parts = [relative(a, b) for a, b in zip(raw, exact, strict=True)]
    if len(found.outputs) == len(parts):  # no output has columns of two kinds
        assert list(found.outputs.values()) == pytest.approx(parts, rel=1e-4)
        assert found.output_error == pytest.approx(sum(parts) / len(parts), rel=1e-4)


@pytest.mark.slow
def test_a_detector_whose_proposals_change() -> None:
    model, images = detector("fasterrcnn"), [torch.rand(3, 64, 64) for _ in range(2)]
    quantized = subbyte.quantize(model, [images], recipe_of(2))
    found = subbyte.diagnose(quantized, [images])
    backbone = [layer for layer in found.layers if layer.region == "backbone"]
    assert all(layer.accumulated_error for layer in backbone)
    json.dumps(found.as_dict(), allow_nan=False)


def test_methods_that_change_biases_are_compared_with_the_float_model(trained: Any) -> None:
    model, images = trained(Residual()), normal(16, 8, 6, 6)
    recipe = subbyte.Recipe(weights=3, activations=8, method="bias_correction")
    quantized = subbyte.quantize(model, [images], recipe)
    assert quantized.params.biases
    found = subbyte.diagnose(quantized, [images])
    with torch.no_grad():
        error = relative(quantized(images), model(images))
    assert found.output_error == pytest.approx(error, rel=1e-4)


def test_sums_that_saturate_belong_to_their_layer(trained: Any) -> None:
    model, images = trained(Classifier()), normal(8, 3, 9, 9)
    narrow = {"body": {"accumulator": 12}}
    quantized = subbyte.quantize(model, [images], recipe_of(8, 8, overrides=narrow))
    found = subbyte.diagnose(quantized, [images])
    worst = max(found.layers, key=lambda layer: layer.alone_loss or 0)
    assert worst.layer == "body"
    with torch.no_grad():
        error = relative(quantized(images), model(images))
    assert found.output_error == pytest.approx(error, rel=1e-4)


def test_the_line_for_a_recipe_mends_the_layer_at_fault(trained: Any) -> None:
    model, images = trained(Classifier()), normal(16, 3, 9, 9)
    low = {r"body": {"weights": 2}}
    quantized = subbyte.quantize(model, [images], recipe_of(8, 8, overrides=low))
    found = subbyte.diagnose(quantized, [images])
    (advice,) = found.advice
    assert advice.layers == ("body",)
    assert "weight" in advice.sentence
    pasted = yaml.safe_load(advice.overrides)["overrides"]
    assert pasted == {"body": {"weights": 8}}
    mended = subbyte.quantize(model, [images], recipe_of(8, 8, overrides=pasted))
    again = subbyte.diagnose(mended, [images])
    assert (again.output_error or 0) < 0.1 * (found.output_error or 0)
    assert not again.advice
    assert "small" in again.summary


def test_the_model_is_left_as_it_is(trained: Any, tmp_path: Path) -> None:
    model, images = trained(Classifier()), normal(8, 3, 9, 9)
    quantized = subbyte.quantize(model, [images], recipe_of(4))
    before, code = quantized(images), quantized.region("").forward
    plain = subbyte.diagnose(quantized, [images]).as_dict()
    assert torch.equal(quantized(images), before)
    assert quantized.region("").forward == code
    again = subbyte.diagnose(quantized, [images]).as_dict()
    assert {**plain, "seconds": 0} == {**again, "seconds": 0}
    json.dumps(plain, allow_nan=False)


class Shared(nn.Module):
    """One convolution at two sizes, and two arguments; gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"a": self.head(a), "b": self.head(b[..., ::2, ::2]), "c": self.other(b)}


def test_a_layer_that_runs_twice_is_one_and_each_output_counts_alike(trained: Any) -> None:
    model, args = trained(Shared()), (normal(4, 3, 9, 9), 3 * normal(4, 3, 13, 13))
    recipe = subbyte.Recipe(weights=4, activations=None, first_last=None, **PLAIN)
    quantized = subbyte.quantize(model, [args], recipe)
    found = subbyte.diagnose(quantized, [args])
    assert [layer.layer for layer in found.layers] == ["head", "other"]
    with torch.no_grad():
        given, exact = quantized(*args), model(*args)
    errors = {key: relative(given[key], exact[key]) for key in exact}
    assert found.outputs == pytest.approx(errors, rel=1e-4)
    assert found.output_error == pytest.approx(sum(errors.values()) / 3, rel=1e-4)
    both = [torch.cat([it[key].flatten() for key in "ab"]) for it in (given, exact)]
    head, other = found.layers
    assert head.own_error == head.accumulated_error == pytest.approx(relative(*both), rel=1e-4)
    assert head.alone_error == pytest.approx((errors["a"] + errors["b"]) / 3, rel=1e-4)
    assert other.alone_error == pytest.approx(errors["c"] / 3, rel=1e-4)


def test_a_model_in_half_precision(trained: Any) -> None:
    model, images = trained(Classifier()).to(torch.bfloat16), normal(4, 3, 9, 9)
    half = images.to(torch.bfloat16)
    found = subbyte.diagnose(subbyte.quantize(model, [half], recipe_of(4)), [half])
    assert found.output_error
    assert found.layers[-1].accumulated_error == found.output_error


def test_no_layer_alone(trained: Any) -> None:
    images = normal(8, 3, 9, 9)
    quantized = subbyte.quantize(trained(Classifier()), [images], recipe_of(4, 8))
    found = subbyte.diagnose(quantized, [images], alone_images=0)
    assert found.alone_images == 0
    assert all(layer.alone_error is None for layer in found.layers)
    assert all(layer.accumulated_error for layer in found.layers)
    assert not found.advice


def test_bad_input_gets_a_sentence() -> None:
    with pytest.raises(SubbyteError, match="Two is not a quantized model"):
        subbyte.diagnose(Two(), [torch.ones(1, 2)])
    quantized = subbyte.quantize(Two(), [torch.ones(1, 2)])
    with pytest.raises(SubbyteError, match="batches is a tensor"):
        subbyte.diagnose(quantized, torch.ones(1, 2))
    with pytest.raises(SubbyteError, match="alone_images is -1"):
        subbyte.diagnose(quantized, [torch.ones(1, 2)], alone_images=-1)
