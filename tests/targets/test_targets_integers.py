"""What a file holds and what runtimes compute from it, against the simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from targets_helpers import (
    RUNTIMES,
    SideBySide,
    TwoConvs,
    Wide,
    deploy,
    differences,
    digit_images,
    images,
    normal,
    packed_weights,
    run,
    seeded,
    step,
)
from torch import nn

import subbyte
from processor import FITTING
from subbyte.numerics.qparams import TensorQParams, quantize_weight

pytestmark = pytest.mark.slow

BITS = [(8, 8), (4, 4), (2, 2), (4, 8)]
SYMMETRIC = {"symmetric_weights": True, "symmetric_activations": True}
ASYMMETRIC = {"symmetric_weights": False, "symmetric_activations": False}
# By how much of one step of the integer sums a float may be off: any other integer is a whole one.
TINY = 0.05
LAST = ("one.conv", "two.second", "residual.last", "pooled.linear")


@pytest.mark.parametrize(
    ("weights", "activations", "more"),
    [
        *(pytest.param(w, a, SYMMETRIC, id=f"w{w}a{a}-symmetric") for w, a in BITS),
        *(pytest.param(w, a, ASYMMETRIC, id=f"w{w}a{a}-asymmetric") for w, a in BITS),
        pytest.param(8, 8, {"per_channel": False}, id="w8a8-per-tensor"),
        pytest.param(3, 8, {"per_channel": False}, id="w3a8-per-tensor"),
    ],
)
def test_small_networks_are_the_simulation_to_the_last_integer(
    weights: int, activations: int, more: dict[str, bool], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    fields = {"weights": weights, "activations": activations, "first_last": None, **more}
    quantized = deploy(seeded(SideBySide), images(), path, **fields)
    # Three times what it was calibrated on as well, so that both ends of all ranges are met.
    batch = torch.cat([images(seed=2), 3 * images(seed=3)])
    for runtime in RUNTIMES:
        off = differences(runtime, path, quantized, batch)
        assert all(d < TINY * step(quantized, layer) for d, layer in zip(off, LAST, strict=True))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_linear_layer_worked_by_hand(runtime: str, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.30, -0.20], [0.95, 0.10]]))
        model.bias.copy_(torch.tensor([0.07, -0.13]))
    fields = {"weights": 2, "activations": 2, "first_last": None, "per_channel": False}
    recipe = subbyte.Recipe(method="range", **fields)
    quantized = subbyte.quantize(model, [torch.rand(2, 2)], recipe)
    zero = torch.ones(1, dtype=torch.int32)
    for tensor, _ in quantized.activations():
        quantized.put(tensor.key, TensorQParams(torch.full((1,), 0.5), zero))
    for tensor, _ in quantized.weights():
        weight, scale = quantized.weight(tensor), torch.full((1,), 0.25)
        quantized.put(tensor.key, quantize_weight(weight, scale, zero, tensor.spec))
    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, torch.rand(2, 2))
    # Levels less the zero point are −1 … 2. Weights: 1.2 → 1, −0.8 → −1, 3.8 → 2, 0.4 → 0.
    # Biases on 0.5 · 0.25: 0.56 → 1, −1.04 → −1. Inputs: −9 → −1, 0.3 → 1; 0.9 → 2, 9 → 2.
    x = torch.tensor([[-9.0, 0.3], [0.9, 9.0]])
    sums = np.array([[-1 * 1 + 1 * -1 + 1, -1 * 2 - 1], [2 * 1 + 2 * -1 + 1, 2 * 2 - 1]])
    np.testing.assert_allclose(run(runtime, path, x)[0], sums * 0.125, rtol=1e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (2, False)])
def test_deployed_activations_hold_no_more_integers_than_their_bits(
    bits: int, symmetric: bool, runtime: str, digits, tmp_path: Path
) -> None:
    quantized, path = digits(**_recipe(bits, symmetric))
    expected = {
        np.float32(row["scale"]): (row["bits"], row["zero_point"], row["symmetric"])
        for row in subbyte.layers(quantized)
        if row["role"] == "activation"
    }
    exposed, scales = _with_activations_as_outputs(path, tmp_path / "exposed.onnx")
    assert set(scales) == set(expected)
    batch, _ = digit_images(40)
    outputs = RUNTIMES[runtime].load(exposed, 1).run(3 * batch.numpy())[1:]
    sizes = set()
    for scale, values in zip(scales, outputs, strict=True):
        own_bits, zero_point, signed = expected[scale]
        low = -(2 ** (own_bits - 1)) if signed else 0
        integers = np.unique(np.round(values / scale)).astype(int)
        assert integers.min() >= low - zero_point
        assert integers.max() <= low + 2**own_bits - 1 - zero_point
        np.testing.assert_allclose(values, np.round(values / scale) * scale, rtol=1e-5)
        sizes.add((own_bits, len(integers) <= 2**own_bits))
    assert sizes == {(bits, True), (8, True)}  # those of the additions have 8 bits


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (2, False)])
def test_deployed_weights_hold_no_more_integers_than_their_bits(
    bits: int, symmetric: bool, digits
) -> None:
    _, path = digits(**_recipe(bits, symmetric))
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    axes = {node.input[0]: _axis(node) for node in nodes}
    held = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    few = {name: held[name] for name in axes if name in held and held[name].dtype == np.int8}
    weights = packed_weights(model) | few
    assert len(weights) == 10
    for name, q in weights.items():
        channels = np.moveaxis(q, axes[name], 0).reshape(q.shape[axes[name]], -1)
        assert max(len(np.unique(row)) for row in channels) <= 2**bits


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("weights", "activations"), BITS)
def test_the_bundled_model_predicts_what_the_simulation_does(
    weights: int, activations: int, runtime: str, digits
) -> None:
    quantized, path = digits(weights=weights, activations=activations, first_last=None)
    batch, _ = digit_images(200, evaluation=True)
    simulated, deployed = quantized(batch).numpy(), run(runtime, path, batch)[0]
    assert (simulated.argmax(1) == deployed.argmax(1)).mean() >= 0.99
    # In a deep network one rounding that falls the other way moves an image's logits a little. On
    # older processors it is one in front of few integers, where one is more.
    most = max(0.02, 0.3 / 2**activations) if FITTING else 0.02
    off = np.abs(simulated - deployed).max(1)
    assert (off < 1e-5 * np.abs(simulated).max()).mean() >= 0.75
    assert off.max() < most * np.abs(simulated).max()


def test_8_bit_weights_with_a_zero_point_in_a_wide_linear_layer(tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", normal(8, 64)
    quantized = deploy(seeded(Wide), batch, path, symmetric_weights=False)
    weights = [row for row in subbyte.layers(quantized) if row["role"] == "weight"]
    assert all(any(row["zero_point"]) for row in weights)
    for runtime in RUNTIMES:
        (off,) = differences(runtime, path, quantized, batch)
        assert off < TINY * step(quantized, "second")


FLOAT_SIDES = [
    ("weights", TwoConvs, 8),
    ("weights", TwoConvs, 3),
    ("weights", Wide, 8),
    ("activations", TwoConvs, 8),
    ("activations", Wide, 4),
]


@pytest.mark.parametrize(
    ("side", "net", "bits"),
    [pytest.param(*case, id=f"{case[0]}-{case[1].__name__}-{case[2]}") for case in FLOAT_SIDES],
)
def test_one_side_alone_is_quantized(
    side: str, net: type[nn.Module], bits: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    batch = normal(8, 64) if net is Wide else images()
    recipe = {"weights": None, "activations": None, "first_last": None, side: bits}
    quantized = deploy(seeded(net), batch, path, **recipe)
    assert {row["role"] for row in subbyte.layers(quantized)} == {side.removesuffix("s")}
    for runtime in RUNTIMES:
        assert differences(runtime, path, quantized, batch)[0] < 1e-6


def test_a_layer_whose_weight_an_override_leaves_in_float(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    overrides = {"first": {"weights": None}}
    quantized = deploy(seeded(TwoConvs), images(), path, overrides=overrides)
    for runtime in RUNTIMES:
        assert differences(runtime, path, quantized, images())[0] < 1e-6


def _recipe(bits: int, symmetric: bool) -> dict[str, object]:
    more = SYMMETRIC if symmetric else {}
    return {"weights": bits, "activations": bits, "first_last": None, **more}


def _with_activations_as_outputs(path: Path, copy: Path) -> tuple[Path, list[np.float32]]:
    """A copy of a file that also gives all quantized activations, and their scales."""
    model = onnx.load(str(path))
    graph = model.graph
    constants = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    scales = []
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    weights = packed_weights(model)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in {*constants, *weights}:
            kind = onnx.TensorProto.FLOAT
            graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, None))
            scales.append(constants[node.input[1]].astype(np.float32)[()])
    onnx.save(model, str(copy))
    return copy, scales


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 1)
