"""Grids of what operations give: where they stand, and by which values their ranges are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import yaml
from torch import nn

import subbyte
from distiller_network import batches, network, statistics

EVERY = {".*": {"bits": 8, "clip": "avg"}}
INPUTS = {r".*#\d+": {"bits": 8, "clip": "avg"}}


def _recipe(**fields: Any) -> subbyte.Recipe:
    common = {"method": "range", "balance": False, "first_last": None, "symmetric_weights": True}
    return subbyte.Recipe(**{**common, "ranges": "minmax", **fields})


def _grids(quantized: nn.Module) -> dict[str, tuple[float, int]]:
    return {
        row["layer"]: (row["scale"], row["zero_point"])
        for row in subbyte.layers(quantized)
        if row["role"] == "activation"
    }


@pytest.fixture(scope="module")
def plain() -> Any:
    return subbyte.quantize(network(), batches(), _recipe(outputs=EVERY, inputs=INPUTS))


def test_each_operation_gives_its_result_a_grid(plain: nn.Module) -> None:
    rows = [row for row in subbyte.layers(plain) if row["role"] == "activation"]

    # The classifier reads what pooling gave, flattened: the same values, in the same grid.
    assert [row["layer"] for row in rows] == [
        "conv1#0",
        "conv1",
        "maxpool",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.0.add",
        "avgpool",
        "fc",
    ]
    assert rows[0]["readers"] == ["conv1"]


def _expected(
    seen: dict[str, Any], clip: str, half: bool, limits: tuple[float, float]
) -> tuple[float, int]:
    """Scale and zero point of 8 bits, asymmetric, of what a module gives."""

    def near(value: float) -> float:
        return min(max(value, limits[0]), limits[1])

    low, high = near(seen["min"]), near(seen["max"])
    if clip == "avg":
        low, high = near(seen["avg_min"]), near(seen["avg_max"])
    elif clip == "n_std":
        low, high = (
            max(low, seen["mean"] - 2 * seen["std"]),
            min(high, seen["mean"] + 2 * seen["std"]),
        )
    elif clip in ("gauss", "laplace"):
        factors = {"gauss": (3.92, 4.2, "std"), "laplace": (9.89, 11.16, "b")}[clip]
        reach = factors[half] * seen[factors[2]]
        low = max(near(seen["avg_min"]), seen["mean"] - reach)
        high = low + (reach if half else 2 * reach)
    low, high = min(low, 0), max(high, 0)
    scale = (high - low) / 255
    return scale, round(-low / scale)


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["none", "avg", "n_std", "gauss", "laplace"])
@pytest.mark.parametrize("from_file", [False, True])
def test_ranges_by_statistics_of_the_float_model(
    clip: str, from_file: bool, tmp_path: Path
) -> None:
    model = network()
    seen = statistics(model, batches())
    path = tmp_path / "stats.yaml"
    path.write_text(yaml.safe_dump(seen))
    grid = {"bits": 8, "clip": clip, "deviations": 2}
    recipe = _recipe(
        outputs={".*": grid}, inputs={r".*#\d+": grid}, statistics=str(path) if from_file else None
    )
    # A file says what there is to know: no image is looked at.
    images = [torch.zeros(2, 3, 8, 8)] if from_file else batches()

    found = _grids(subbyte.quantize(model, images, recipe))

    behind = (0.0, float("inf"))
    anywhere = (-float("inf"), float("inf"))
    expected = {
        "conv1#0": _expected(seen["conv1"]["inputs"][0], clip, False, anywhere),
        # Batch norm is folded, and the ReLU is computed along with the convolution.
        "conv1": _expected(seen["bn1"]["output"], clip, True, behind),
        "maxpool": _expected(seen["maxpool"]["output"], clip, False, anywhere),
        "layer1.0.conv1": _expected(seen["layer1.0.conv1"]["output"], clip, True, behind),
        "layer1.0.conv2": _expected(seen["layer1.0.conv2"]["output"], clip, False, anywhere),
        "layer1.0.add": _expected(seen["layer1.0.add"]["output"], clip, True, behind),
        "avgpool": _expected(seen["avgpool"]["output"], clip, False, anywhere),
        "fc": _expected(seen["fc"]["output"], clip, False, anywhere),
    }
    for layer, (scale, zero) in expected.items():
        assert found[layer][0] == pytest.approx(scale, rel=2e-6), layer
        assert found[layer][1] == zero, layer


def test_a_relu_alone_is_clipped_by_what_it_reads() -> None:
    model = network()
    seen = statistics(model, batches())
    grid = {"bits": 4, "clip": "laplace"}
    recipe = _recipe(outputs={r".*\.relu1": grid})

    found = _grids(subbyte.quantize(model, batches(), recipe))

    assert list(found) == ["layer1.0.relu1"]
    reach = 6.2 * seen["layer1.0.relu1"]["inputs"][0]["b"]
    mean = seen["layer1.0.relu1"]["inputs"][0]["mean"]
    low = max(0.0, mean - reach)
    assert found["layer1.0.relu1"][0] == pytest.approx((low + reach) / 15, rel=1e-5)


def test_what_is_left_in_float() -> None:
    outputs = {r"layer1\.0\.conv1": None, "avgpool": None, **EVERY}
    recipe = _recipe(outputs=outputs, inputs={r"layer1.*#\d+": None, **INPUTS})

    found = _grids(subbyte.quantize(network(), batches(), recipe))

    assert "layer1.0.conv1" not in found
    assert "avgpool" not in found
    assert "layer1.0.relu1" in found  # alone, it is computed for itself
    assert "fc#0" in found  # what reads float has a grid of its own


def test_half_a_range_makes_negative_values_0() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    torch.manual_seed(0)
    images = batches()
    recipe = _recipe(outputs={"conv": {"bits": 8, "half": True}}, weights=None)
    model = Net().eval()

    found = subbyte.quantize(model, images, recipe)(images[0]).detach()

    assert float(found.min()) == 0
    kept = model(images[0]).detach().clamp(min=0)
    step = _grids(subbyte.quantize(model, images, recipe))["conv"][0]
    assert float((found - kept).abs().max()) <= step * 0.51


@pytest.mark.slow
@pytest.mark.parametrize("restricted", [False, True])
def test_files_compute_what_the_simulation_does(restricted: bool, tmp_path: Path) -> None:
    grid = {"bits": 8, "symmetric": True, "restricted": restricted, "clip": "avg"}
    recipe = _recipe(outputs={"fc": grid, **EVERY}, inputs={"conv1#0": grid, **INPUTS})
    quantized = subbyte.quantize(network(), batches(), recipe)
    images = batches()[0] * 4  # far beyond the ranges
    subbyte.export(quantized, tmp_path / "model.onnx", images)

    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"input": images.numpy()})

    with torch.no_grad():
        expected = quantized(images).numpy()
    scale = _grids(quantized)["fc"][0]
    assert np.abs(found - expected).max() <= scale * 1.01
    assert np.mean(found == expected) > 0.8


def test_a_saved_model_is_the_same(plain: nn.Module, tmp_path: Path) -> None:
    subbyte.save(plain, tmp_path / "model.safetensors")
    loaded = subbyte.load(network(), tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(batches()[0]), plain(batches()[0]))


def test_narrow_sums_against_integers_worked_out_by_hand() -> None:
    """A convolution with a ReLU and a classifier of 14 bits, with factors of 6 bits."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.relu = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.conv(x))

    torch.manual_seed(1)
    model, images = Net().eval(), batches()
    grid = {"bits": 8, "scale_bits": 6}
    recipe = _recipe(
        outputs={".*": grid}, inputs={r".*#\d+": grid}, per_channel=False, accumulator=14
    )

    quantized = subbyte.quantize(model, images, recipe)
    with torch.no_grad():
        found = quantized(images[0]).double()

    rows = {(row["layer"], row["role"]): row for row in subbyte.layers(quantized)}
    s_in, z_in = (rows["conv#0", "activation"][key] for key in ("scale", "zero_point"))
    s_out, s_w = rows["conv", "activation"]["scale"], rows["conv", "weight"]["scale"]
    x = torch.round(images[0].double() / s_in) + z_in
    x = x.clamp(0, 255) - z_in
    w = torch.round(model.conv.weight.detach().double() / s_w).clamp(-128, 127)

    def approximate(factor: float) -> float:
        shift = np.floor(np.log2(63 / factor))
        return float(np.floor(factor * 2**shift) / 2**shift)

    of_sums = approximate(1 / (s_in * s_w))
    bias = torch.round(model.conv.bias.detach().double() * of_sums)
    sums = nn.functional.conv2d(x, w, bias, padding=1)
    kept = sums.clamp(-(2**13), 2**13 - 1)
    integers = torch.round(kept.clamp(min=0) * approximate(1 / s_out / of_sums)).clamp(0, 255)
    assert (sums != kept).double().mean() > 0.05
    wrong = (found / s_out - integers).abs() > 1e-3
    assert wrong.double().mean() < 0.01  # a half is rounded to either side


def test_accumulators_by_layer_and_their_files(tmp_path: Path) -> None:
    recipe = _recipe(overrides={"fc": {"accumulator": 8}}, accumulator=32)
    quantized = subbyte.quantize(network(), batches(), recipe)
    wide = subbyte.quantize(network(), batches(), _recipe())

    with torch.no_grad():
        narrow, plain = quantized(batches()[0]), wide(batches()[0])
    assert not torch.equal(narrow, plain)
    with pytest.raises(subbyte.SubbyteError, match="sums of 'fc' have 8 bits, and no runtime"):
        subbyte.export(quantized, tmp_path / "model.onnx", batches()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"outputs": {"layer1.0.conv9": {"bits": 8}}}, "operation in outputs 'layer1.0.conv9'"),
        ({"outputs": EVERY, "inputs": {"conv1": {"bits": 8}}}, "operation in inputs 'conv1'"),
        ({"outputs": {"conv1": {"bits": 9}}}, "9 bits are not supported"),
        ({"outputs": {"conv1": {"bits": 8, "clip": "n_std"}}}, "without deviations"),
        ({"outputs": {"conv1": {"bits": 8, "restricted": True}}}, "restricted is for symmetric"),
        ({"outputs": {"(": {"bits": 8}}}, "not a regular expression"),
        ({"outputs": {"conv1": {"bit": 8}}}, "did you mean 'bits'"),
        ({"accumulator": 40}, "sums of 40 bits are not supported"),
        ({"outputs": EVERY, "statistics": "nothing.yaml"}, "no file of statistics nothing.yaml"),
    ],
)
def test_refusals(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(subbyte.SubbyteError, match=match):
        subbyte.quantize(network(), batches(), _recipe(**fields))


def test_a_file_that_lacks_a_module_is_refused(tmp_path: Path) -> None:
    seen = statistics(network(), batches())
    del seen["layer1.0.add"]
    path = tmp_path / "stats.yaml"
    path.write_text(yaml.safe_dump(seen))
    with pytest.raises(subbyte.SubbyteError, match=r"unknown module 'layer1\.0\.add'"):
        subbyte.quantize(
            network(), batches(), _recipe(outputs=EVERY, inputs=INPUTS, statistics=str(path))
        )
