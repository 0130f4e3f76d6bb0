"""Whole detectors in one file: what runtimes give is what the simulated model gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import subbyte
from processor import FITTING, exact_sums
from small_detectors import LARGE, NAMES, detector, large, pictures
from subbyte.detectors.common.nms import OUTPUTS
from subbyte.detectors.deployment import deployment, detections_of
from subbyte.detectors.ssd import anchored_of
from subbyte.errors import SubbyteError
from subbyte.postprocessing import Anchored
from subbyte.targets import base as verify
from subbyte.targets.onnx.export import export_float

pytestmark = pytest.mark.slow

ONE_STAGE = ("ssd", "retinanet", "fcos")
EVERY = [
    name if name in ("ssd", "retinanet") else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
]
RUNTIMES = ("onnxruntime", "openvino")
RANGE = subbyte.Recipe(method="range", ranges="minmax", **FITTING)


@cache
def quantized(name: str) -> nn.Module:
    """A small detector on 8 bits."""
    return subbyte.quantize(detector(name), [pictures(4, seed=s) for s in range(2)], RANGE)


def run(path: Path, runtime: str, images: list[torch.Tensor]) -> dict[str, np.ndarray]:
    names = [value.name for value in onnx.load(str(path)).graph.output]
    outputs = verify.runtime(runtime).load(path, 1).run(torch.stack(images).numpy())
    return dict(zip(names, outputs, strict=True))


def shares_matched(expected: list[dict[str, torch.Tensor]], found: dict[str, Any]) -> list[float]:
    """Of each image, the share of detections that are there with class, score and box."""
    shares = []
    for i, image in enumerate(expected):
        count = int(found["count"][i])
        boxes, scores, labels = (torch.tensor(found[key][i][:count]) for key in OUTPUTS[:3])
        near = torch.cdist(image["boxes"], boxes, p=float("inf")) < 0.2
        near &= (image["scores"][:, None] - scores).abs() < 5e-3
        near &= image["labels"][:, None] == labels
        shares.append(float(near.any(1).float().mean()))
        assert abs(count - len(image["boxes"])) <= 2
    return shares


@pytest.mark.parametrize("size", [(64, 64), (60, 70)])
@pytest.mark.parametrize("name", EVERY)
def test_files_give_the_boxes_of_the_simulated_model(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    model, images = quantized(name), pictures(3, size, seed=9)
    with torch.no_grad():
        expected = model(images)
    assert all(len(image["boxes"]) >= 40 for image in expected)
    path = tmp_path / "model.onnx"
    subbyte.export(model, path, torch.stack(images[:1]))
    for runtime in RUNTIMES:
        found = run(path, runtime, images)
        assert tuple(found) == OUTPUTS
        # A score that lies between two, or an overlap on the threshold, may be taken or not.
        assert min(shares_matched(expected, found)) >= 0.94


@pytest.mark.whole
@pytest.mark.parametrize("name", LARGE)
def test_torchvisions_own_are_written_whole_and_run(name: str, tmp_path: Path) -> None:
    """In float the boxes of the model, on 8 bits boxes, in both runtimes."""
    model, images = large(name), pictures(2, LARGE[name])
    prepared = subbyte.quantize(model, [images], RANGE)
    assert all(layer.integer for layer in prepared.placement.layers)
    with torch.no_grad():
        expected = model(images)
    export_float(prepared, tmp_path / "float.onnx", (images,))
    subbyte.export(prepared, tmp_path / "model.onnx", images)
    for runtime in RUNTIMES:
        assert min(shares_matched(expected, run(tmp_path / "float.onnx", runtime, images))) >= 0.94
        found = run(tmp_path / "model.onnx", runtime, images)
        assert tuple(found) == OUTPUTS
        assert min(found["count"]) > 0
        assert all(np.isfinite(found[key]).all() for key in ("boxes", "scores"))


def test_regions_that_float_code_connects_have_inputs_of_their_own(tmp_path: Path) -> None:
    """Of Faster R-CNN, raw: the batch, and what RoIAlign makes of the feature maps."""
    path = tmp_path / "model.onnx"
    subbyte.export(quantized("fasterrcnn"), path, pictures(2), postprocess=False)
    shapes = [
        [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
        for value in onnx.load(str(path)).graph.input
    ]
    assert shapes == [[3, 64, 64], [32, 3, 3]]
    for runtime in RUNTIMES:
        session = verify.runtime(runtime).load(path, 1)
        outputs = session.run(np.zeros((3, 3, 64, 64), "f4"), np.zeros((7, 32, 3, 3), "f4"))
        # Objectness and boxes of two levels, then class scores and boxes of each proposal.
        assert [len(x) for x in outputs] == [3, 3, 3, 3, 7, 7]


def tensors_and_attributes(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of a model's tensors, and of each of its modules the attributes themselves."""
    tensors = {
        name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()
    }
    return tensors, {name: dict(vars(module)) for name, module in model.named_modules()}


def not_run(captured: Any) -> Any:
    """A copy of Faster R-CNN whose pool is as in a model that has not run yet."""
    fresh = copy.deepcopy(captured)
    pool = fresh.model.roi_heads.box_roi_pool
    pool.scales = pool.map_levels = None
    return fresh


def check_unchanged(captured: Any, images: torch.Tensor) -> None:
    tensors, attributes = tensors_and_attributes(captured.model)
    for postprocess in (True, False):
        deployed = deployment(captured.model, captured, (images,), postprocess)
        assert not any(part.training for part in deployed.module.modules())
    detections_of(captured, (images,))
    after, found = tensors_and_attributes(captured.model)
    assert found.keys() == attributes.keys()
    for module, own in attributes.items():
        assert found[module].keys() == own.keys()
        assert [key for key, value in own.items() if found[module][key] is not value] == []
    assert after.keys() == tensors.keys()
    for key, (tensor, value) in tensors.items():
        assert after[key][0] is tensor
        assert torch.equal(after[key][1], value)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_given_changes(name: str) -> None:
    """A quantized model and the float model, and of these the attributes of every module."""
    images, simulation = torch.stack(pictures(2)), quantized(name)
    check_unchanged(not_run(simulation) if name == "fasterrcnn" else simulation, images)
    check_unchanged(simulation.float_model, images)


def test_a_pool_that_has_not_run_learns_the_same_strides() -> None:
    images = torch.stack(pictures(2, seed=9))
    captured = quantized("fasterrcnn")
    with torch.no_grad():
        expected, found = (
            deployment(each.model, each, (images,), True).module(images)
            for each in (captured, not_run(captured))
        )
    assert int(expected[3].min()) > 0
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_what_is_behind_the_last_detection_is_zero(tmp_path: Path) -> None:
    model = quantized("ssd")
    subbyte.export(model, tmp_path / "model.onnx", pictures(2))
    for runtime in RUNTIMES:
        found = run(tmp_path / "model.onnx", runtime, pictures(5))
        assert found["boxes"].shape == (5, 200, 4)
        for i, count in enumerate(found["count"]):
            assert 0 < count < 200
            assert (found["scores"][i, :count] > 0).all()
            assert not any(found[key][i, count:].any() for key in OUTPUTS[:3])


@exact_sums  # a reduced range brings FCOS's head next to borders between levels
@pytest.mark.parametrize("name", ONE_STAGE)
def test_raw_outputs_are_those_of_the_head(name: str, tmp_path: Path) -> None:
    model, images, expected = quantized(name), pictures(3), {}
    handle = model.region("head").register_forward_hook(lambda _, __, out: expected.update(out))
    with torch.no_grad():
        model(images)
    handle.remove()
    subbyte.export(model, tmp_path / "model.onnx", images[:1], postprocess=False)
    for runtime in RUNTIMES:
        found = run(tmp_path / "model.onnx", runtime, images)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            # Where a value lies between two levels the order of sums decides, and what follows it.
            differences = (torch.tensor(found[key]) - value).abs()
            assert differences.max() < 0.05
            assert (differences < 1e-4).float().mean() >= 0.9


@pytest.mark.parametrize("name", ONE_STAGE)
def test_no_layer_is_in_float_between_backbone_and_head(name: str, tmp_path: Path) -> None:
    """All that reads or gives a convolution is quantized, but what the last ones give."""
    subbyte.export(quantized(name), tmp_path / "model.onnx", pictures(2), postprocess=False)
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) >= 7
    for node in convolutions:
        assert [made[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
        readers = [other.op_type for other in graph.node if node.output[0] in other.input]
        assert "QuantizeLinear" not in readers or readers == ["QuantizeLinear"]
    session = verify.runtime("openvino").load(tmp_path / "model.onnx", 1)
    assert session.int8_ops() == len(convolutions)


class Own(nn.Module):
    """A detector that no one knows, but that says what happens around its network."""

    subbyte_regions = ("network",)

    def __init__(self, inner: Any, anchored: Anchored) -> None:
        super().__init__()
        self.network, self.inner, self.subbyte_postprocessing = Network(inner), [inner], anchored

    def forward(self, images: list[torch.Tensor]) -> Any:
        inner = self.inner[0]
        batch, _ = inner.transform(images)
        features = list(inner.backbone(batch.tensors).values())
        regression, logits = self.network(batch.tensors)
        outputs = {"bbox_regression": regression, "cls_logits": logits}
        anchors = inner.anchor_generator(batch, features)
        return inner.postprocess_detections(outputs, anchors, batch.image_sizes)


class Network(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.backbone, self.head = inner.backbone, inner.head

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.head(list(self.backbone(batch).values()))
        return outputs["bbox_regression"], outputs["cls_logits"]


def test_a_model_may_say_itself_what_happens_around_its_network(tmp_path: Path) -> None:
    inner, images = detector("ssd"), pictures(3)
    anchored = anchored_of(inner, torch.stack(images))
    model = subbyte.quantize(Own(inner, anchored).eval(), [images], RANGE)
    assert model.region_names == ("network",)
    with torch.no_grad():
        expected = model(images)
    subbyte.export(model, tmp_path / "model.onnx", images)
    for runtime in RUNTIMES:
        assert min(shares_matched(expected, run(tmp_path / "model.onnx", runtime, images))) >= 0.94


@pytest.mark.parametrize(
    ("example", "told"),
    [
        (lambda: [*pictures(1), *pictures(1, (64, 72))], "a detector is written for images of one"),
        (lambda: torch.rand(3, 64), "a detector is written for images of one size"),
    ],
)
def test_examples_that_no_file_can_be_made_for(
    example: Callable[[], Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(SubbyteError, match=told):
        subbyte.export(quantized("ssd"), tmp_path / "model.onnx", example())
