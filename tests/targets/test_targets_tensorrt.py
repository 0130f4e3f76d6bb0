"""TensorRT's form: it computes what the simulation does, and grids are where kernels are fused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from targets_helpers import (
    SelfAttention,
    SideBySide,
    TwoConvs,
    digit_images,
    images,
    normal,
    run,
    seeded,
)

import subbyte
from conftest import Digits
from files_of_detectors import decibels, nudged
from processor import FITTING
from small_detectors import detector
from subbyte.errors import SubbyteError
from subbyte.targets import base as targets
from subbyte.targets import tensorrt
from subbyte.targets.listing import listed
from subbyte.targets.onnx.export import read_metadata

FOUR = {"weights": 4, "activations": 4}


@pytest.fixture(scope="module", params=[{}, FOUR], ids=["W8A8", "W4A4"])
def file(request: pytest.FixtureRequest, digits: Digits) -> tuple[subbyte.Recipe, Path]:
    """The trained model in TensorRT's form."""
    quantized, path = digits(target="tensorrt", method="range", **request.param)
    expected = quantized(digit_images(60, evaluation=True)[0])
    for size in (1, 59):
        batch = digit_images(60, evaluation=True)[0][:size]
        found = run("onnxruntime", path, batch)[0]
        signal = expected[:size].square().sum()
        noise = (torch.from_numpy(found) - expected[:size]).square().sum()
        assert 10 * torch.log10(signal / noise) > 60
    return quantized.placement.recipe, path


def test_integers_are_int8_and_zero_points_0(file: tuple[subbyte.Recipe, Path]) -> None:
    model = onnx.load(str(file[1]))
    assert read_metadata(file[1])["target"] == "tensorrt"
    held = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    for node in model.graph.node:
        assert node.domain == ""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zeros = held[node.input[2]]
            assert (zeros.dtype, zeros.any()) == (np.int8, False)
            weight = node.input[0] in held
            assert held[node.input[1]].ndim == weight
            assert not weight or held[node.input[0]].dtype == np.int8
        elif node.op_type == "Conv":
            assert held[node.input[2]].dtype == np.float32


def test_grids_are_where_kernels_are_fused(file: tuple[subbyte.Recipe, Path]) -> None:
    graph = onnx.load(str(file[1])).graph
    made = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in graph.node:
        kinds = [made[name].op_type for name in node.input if name in made]
        if node.op_type == "Conv":  # in front of it, and neither behind it nor behind its bias
            assert kinds == ["DequantizeLinear"] * 2
            assert set(readers[node.output[0]]) <= {"Relu", "Clip", "Add", "QuantizeLinear"}
            assert (
                not {"Relu", "Clip"} & set(readers[node.output[0]])
                or len(readers[node.output[0]]) == 1
            )
        elif node.op_type == "Add" and len(kinds) == 2 and "MatMul" not in kinds:
            assert sorted(kinds) == ["Conv", "DequantizeLinear"]  # one branch of the residual


def test_recipes_without_the_target_are_refused(tmp_path: Path) -> None:
    quantized = subbyte.quantize(seeded(TwoConvs), [images()], subbyte.Recipe(method="range"))
    with pytest.raises(SubbyteError, match="of 'first' has 8 bits and a zero point"):
        subbyte.export(quantized, tmp_path / "m.onnx", images(2), target="tensorrt")
    assert not list(tmp_path.iterdir())


def test_fewer_than_8_bits_keep_their_zero_points(digits: Digits) -> None:
    quantized, _ = digits(target="tensorrt", method="range", **FOUR)
    rows = subbyte.layers(quantized)
    assert {row["bits"] for row in rows} >= {4, 8}
    assert all(row["symmetric"] for row in rows if row["bits"] == 8)
    assert not any(row["symmetric"] for row in rows if row["bits"] == 4)
    assert quantized.reported["target"] == (
        "activations of 8 bits are symmetric, as TensorRT takes them",
    )


@pytest.mark.slow
def test_onnxruntime_verifies_a_file(monkeypatch: pytest.MonkeyPatch, digits: Digits) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not installed
    quantized, path = digits(target="tensorrt", method="range")
    batch = digit_images(20, evaluation=True)[0]
    found = subbyte.verify(quantized, path, [batch], runtimes=["onnxruntime"])
    assert found.deployed["onnxruntime"].agreement == 1
    with pytest.raises(SubbyteError, match="pip install tensorrt"):
        subbyte.verify(quantized, path, [batch])


def test_how_an_engine_is_built_is_said(digits: Digits, tmp_path: Path) -> None:
    quantized, _ = digits(target="tensorrt", method="range")
    notes = subbyte.export(quantized, tmp_path / "m.onnx", digit_images(2)[0])
    assert notes == (
        "an engine is built by: trtexec --onnx=m.onnx --minShapes=input:1x1x8x8 "
        "--optShapes=input:8x1x8x8 --maxShapes=input:64x1x8x8",
    )


def test_recipes_that_contradict_it() -> None:
    grid = {"outputs": {".*": {"bits": 8}}, "target": "tensorrt"}
    batch = [torch.rand(2, 3, 6, 6)]
    with pytest.raises(SubbyteError, match=r"outputs\['\.\*'\] has 8 bits and a zero point"):
        subbyte.quantize(seeded(SideBySide), batch, subbyte.Recipe(**grid))
    recipe = subbyte.Recipe(symmetric_weights=False, symmetric_activations=True, target="tensorrt")
    assert tensorrt.fitted(recipe) == (
        recipe,
        ["weights of 8 bits are symmetric, as TensorRT takes them"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 5, 4])
def test_other_networks(tmp_path: Path, bits: int) -> None:
    fields = {"weights": bits, "activations": bits, "method": "range", "target": "tensorrt"}
    for make, batch in ((SideBySide, images(16)), (SelfAttention, normal(16, 9, 16))):
        path = tmp_path / "model.onnx"
        recipe = subbyte.Recipe(**FITTING, **fields)
        quantized = subbyte.quantize(seeded(make), [batch], recipe)
        assert all(layer.integer for layer in quantized.placement.layers)
        subbyte.export(quantized, path, batch[:2])
        given = batch[:5]
        expected = quantized(given)
        expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
        with nudged(quantized, 0):
            other = quantized(given)
        found = run("onnxruntime", path, given)
        again = decibels(other, expected, expected, False)
        assert decibels(found, expected, expected, False) > min(again, 60) - 3


@pytest.mark.slow
def test_a_detector_is_written_whole(tmp_path: Path) -> None:
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    recipe = subbyte.Recipe(method="range", target="tensorrt", **FITTING)
    quantized = subbyte.quantize(detector("ssd"), [list(batch)], recipe)
    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, list(batch[:2]))
    boxes, scores, _, count = run("onnxruntime", path, batch[:2])
    assert boxes.shape == (*scores.shape, 4)
    for image, simulated in enumerate(quantized(list(batch[:2]))):
        found, expected = scores[image, : count[image]], simulated["scores"]
        assert abs(len(found) - len(expected)) <= 2
        np.testing.assert_allclose(found[:5], expected[:5], atol=0.05)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, digits: Digits) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not installed
    _, path = digits(target="tensorrt", method="range")
    with pytest.raises(SubbyteError, match="pip install tensorrt"):
        tensorrt.load(path, 1)
    (row,) = [row for row in listed() if row["name"] == "tensorrt"]
    assert (row["runs_here"], row["installed"]) == (False, None)
    assert "pip install tensorrt; ONNX Runtime computes the same values" in row["note"]


@pytest.mark.slow
def test_an_engine_computes_what_the_simulation_does(digits: Digits) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    if not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU")
    for fields in ({}, FOUR):
        quantized, path = digits(target="tensorrt", method="range", **fields)
        batch = digit_images(100, evaluation=True)[0]  # more than an engine's batch
        session = targets.runtime("tensorrt").load(path, 1)
        found, expected = session.run(batch.numpy())[0], quantized(batch)
        assert (found.argmax(1) == expected.numpy().argmax(1)).mean() > 0.98
        assert session.int8_ops() == len(quantized.placement.layers)
