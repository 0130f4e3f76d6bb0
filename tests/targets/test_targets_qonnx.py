"""QONNX: its own execution computes what the simulation does, before and after it transforms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from targets_helpers import SelfAttention, SideBySide, digit_images, images, normal, seeded
from torch import Tensor
from torch.utils import _pytree as pytree

import subbyte
from conftest import Digits
from files_of_detectors import decibels, nudged
from small_detectors import detector
from subbyte.errors import SubbyteError
from subbyte.placement.simulation import Simulation
from subbyte.targets import qonnx
from subbyte.targets.files import arguments
from subbyte.targets.onnx.export import read_metadata

pytest.importorskip("qonnx", reason="qonnx is not installed")

COUNT = 2  # QONNX takes long for an image
MIXED = {
    "weights": 4,
    "activations": 4,
    "overrides": {
        r"block1\..*": {"weights": 2, "activations": 7},
        r"block2\.conv2": {"weights": 6, "activations": 2},
        r"block3\.conv1": {"weights": 3, "activations": 3},
        r"block3\.conv2": {"weights": 5, "activations": 5},
    },
}
Mixed = tuple[Simulation, Path, Any]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """The trained model with weights and activations of all widths, its file, and QONNX's model."""
    from qonnx.core.modelwrapper import ModelWrapper

    from subbyte.models import build

    recipe = subbyte.Recipe(method="range", target="qonnx", **MIXED)
    batch = digit_images(128)[0]
    quantized = subbyte.quantize(build("digits"), [batch], recipe)
    path = tmp_path_factory.mktemp("qonnx") / "model.qonnx.onnx"
    assert subbyte.export(quantized, path, batch[:2]) == ()
    return quantized, path, ModelWrapper(str(path))


def nearness(quantized: Simulation, session: qonnx.QonnxSession, batch: Tensor) -> float:
    """How near a file is to the simulation, in dB."""
    expected = quantized(batch)
    return decibels(session.run(batch.numpy()), expected, expected, False)


@pytest.mark.slow
def test_it_is_the_simulation_also_when_it_is_cleaned_and_converted(mixed: Mixed) -> None:
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ
    from qonnx.util.cleanup import cleanup_model

    quantized, path, model = mixed
    batch = digit_images(COUNT, evaluation=True)[0]
    assert nearness(quantized, qonnx.load(path, 1), batch) > 60
    clean = cleanup_model(model)
    assert nearness(quantized, qonnx.QonnxSession(clean, path), batch) > 60
    plain = clean.transform(QuantToQCDQ()).transform(InferShapes())
    assert not plain.get_nodes_by_op_type("Quant")
    assert nearness(quantized, qonnx.QonnxSession(plain, path), batch) > 60


def test_nodes_have_the_bits_of_the_recipe_and_no_zero_points(mixed: Mixed) -> None:
    quantized, path, model = mixed
    nodes = model.get_nodes_by_op_type("Quant")
    found = sorted(int(model.get_initializer(node.input[3])) for node in nodes)
    assert found == sorted(row["bits"] for row in subbyte.layers(quantized))
    assert set(found) == set(range(2, 9))
    assert all(not model.get_initializer(node.input[2]).any() for node in nodes)
    assert {node.domain for node in nodes} == {"qonnx.custom_op.general"}
    assert read_metadata(path)["target"] == "qonnx"


def test_shapes_are_numbers(mixed: Mixed) -> None:
    _, path, model = mixed
    assert model.check_all_tensor_shapes_specified()
    assert model.get_tensor_shape("input") == [1, 1, 8, 8]
    assert "Shape" not in {node.op_type for node in onnx.load(str(path)).graph.node}


def test_files_run_as_those_of_any_runtime(mixed: Mixed) -> None:
    quantized, path, _ = mixed
    batch, labels = digit_images(COUNT, evaluation=True)
    found = subbyte.evaluate(path, [(batch, labels)])
    assert found.runtime == "qonnx"
    assert found.metrics["top1"] == float((quantized(batch).argmax(1) == labels).double().mean())
    with pytest.raises(SubbyteError, match="is a file of qonnx: onnxruntime cannot read it"):
        subbyte.evaluate(path, [(batch, labels)], runtime="onnxruntime")


@pytest.mark.slow
def test_zero_points_of_other_recipes_are_kept(digits: Digits, tmp_path: Path) -> None:
    from qonnx.core.modelwrapper import ModelWrapper

    quantized, _ = digits(weights=4, activations=4)
    path = tmp_path / "model.qonnx.onnx"
    subbyte.export(quantized, path, digit_images(2)[0], target="qonnx")
    batch = digit_images(COUNT, evaluation=True)[0]
    assert nearness(quantized, qonnx.load(path, 1), batch) > 60
    model = ModelWrapper(str(path))
    nodes = model.get_nodes_by_op_type("Quant")
    assert any(model.get_initializer(node.input[2]).any() for node in nodes)
    found = sorted(int(model.get_initializer(node.input[3])) for node in nodes)
    assert found == sorted(row["bits"] for row in subbyte.layers(quantized))


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (4, 3)])
def test_other_networks(tmp_path: Path, weights: int, activations: int) -> None:
    fields = {"weights": weights, "activations": activations, "method": "range"}
    for make, batch in ((SideBySide, images(16)), (SelfAttention, normal(16, 9, 16))):
        path = tmp_path / "model.qonnx.onnx"
        recipe = subbyte.Recipe(target="qonnx", **fields)
        quantized = subbyte.quantize(seeded(make), [batch], recipe)
        subbyte.export(quantized, path, batch[:2])
        expected = quantized(batch[:3])
        with nudged(quantized, 0):
            again = decibels(quantized(batch[:3]), expected, expected, False)
        assert nearness(quantized, qonnx.load(path, 1), batch[:3]) > min(again, 60) - 3


@pytest.mark.slow
def test_narrow_grids(tmp_path: Path) -> None:
    from qonnx.core.modelwrapper import ModelWrapper

    grid = {"bits": 6, "symmetric": True, "restricted": True}
    recipe = subbyte.Recipe(outputs={".*": grid}, method="range", target="qonnx")
    quantized = subbyte.quantize(seeded(SideBySide), [images(16)], recipe)
    path = tmp_path / "model.qonnx.onnx"
    subbyte.export(quantized, path, images(2))
    assert nearness(quantized, qonnx.load(path, 1), images(3)) > 60
    nodes = ModelWrapper(str(path)).get_nodes_by_op_type("Quant")
    attributes = [{a.name: a.i for a in node.attribute} for node in nodes]
    assert {(a["signed"], a["narrow"]) for a in attributes} == {(1, 1), (1, 0)}


@pytest.mark.slow
def test_a_detector_gives_its_raw_outputs(tmp_path: Path) -> None:
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    recipe = subbyte.Recipe(method="range", target="qonnx")
    quantized = subbyte.quantize(detector("ssd"), [list(batch)], recipe)
    path = tmp_path / "model.qonnx.onnx"
    (note,) = subbyte.export(quantized, path, list(batch[:2]))
    assert "the file gives the raw outputs" in note
    names = [output.name for output in onnx.load(str(path)).graph.output]
    raw = pytree.tree_leaves(quantized.raw(list(batch[:2])))
    expected = dict(zip(("bbox_regression", "cls_logits"), raw, strict=True))
    assert set(names) == set(expected)
    given = arguments(quantized, (list(batch[:2]),), postprocess=False)
    found = qonnx.load(path, 1).run(*(x.numpy() for x in given))
    for name, value in zip(names, found, strict=True):
        other = expected[name]
        np.testing.assert_allclose(value, other, atol=0.05 * float(other.abs().max()))


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, mixed: Mixed) -> None:
    monkeypatch.setitem(sys.modules, "qonnx", None)  # as if it were not installed
    with pytest.raises(SubbyteError, match=r"pip install 'subbyte\[qonnx\]'"):
        qonnx.load(mixed[1], 1)
