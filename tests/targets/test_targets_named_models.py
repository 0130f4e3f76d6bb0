"""Models by name of transformers and libreyolo: quantized, written whole, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import subbyte
from files_of_detectors import decibels, nearness
from processor import FITTING
from subbyte.models import ModelConfig, ModelSpec, load
from subbyte.targets import base as targets

RECIPE = subbyte.Recipe(method="range", ranges="minmax", **FITTING)
RUNTIMES = ("onnxruntime", "openvino")
whole = pytest.mark.whole
CLASSIFIERS = ["vit", *(pytest.param(k, marks=pytest.mark.slow) for k in ("swin", "resnet"))]
DETECTORS = [
    pytest.param("yolos", marks=pytest.mark.slow),
    *(pytest.param(kind, marks=whole) for kind in ("detr", "rt_detr", "d_fine")),
]
# The sides of images, and the scales of batch norms: at 1 the random YOLOX is so steep that the
# rounding of a single sum turns all of its outputs.
LIBREYOLO = [
    ("yolox-n", 128, 0.3),
    ("YOLOv9-t", 128, 1.0),
    ("RT-DETR-r18", 256, 1.0),
    ("D-FINE-n", 256, 1.0),
]


def with_statistics(module: nn.Module, images: torch.Tensor) -> None:
    """Batch norms as of these images, so that scores of random weights are apart."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        module(images)
    for norm in norms:
        norm.eval()


def of_transformers(folder: Path, kind: str) -> ModelSpec:
    pytest.importorskip("transformers")
    import tiny_transformers as tiny

    return load(ModelConfig(name=f"transformers/{tiny.written(folder, getattr(tiny, kind))}"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_gives_in_a_runtime_what_it_gives_simulated(tmp_path: Path, kind: str) -> None:
    spec = of_transformers(tmp_path / kind, kind)
    images = torch.rand(6, 3, 32, 32)
    quantized = subbyte.quantize(spec.module, [images], RECIPE)
    assert all(layer.integer for layer in quantized.placement.layers)
    subbyte.export(quantized, tmp_path / "m.onnx", images[:2], target="onnxruntime")
    session = targets.runtime("onnxruntime").load(tmp_path / "m.onnx", 1)
    with torch.no_grad():
        expected = quantized(images[:3])
    np.testing.assert_allclose(session.run(images[:3].numpy())[0], expected, atol=0.05)
    assert session.int8_ops() == len(quantized.placement.layers)


def checked(spec: ModelSpec, side: int, folder: Path) -> None:
    """In each runtime a float file is right, and a quantized one as near as can be."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, side, side, generator=generator)
    with_statistics(spec.module, images)
    assert spec.outputs is not None
    outputs = spec.outputs.model_copy(update={"score": 0.0})  # untrained ones are low
    quantized = subbyte.quantize(spec.module, [images], RECIPE, outputs=outputs)
    in_float = {x.name for x in quantized.placement.layers if not x.integer and x.reason}
    assert {name.rpartition(".")[2] for name in in_float} <= {"integral"}  # a mean of distances
    with torch.no_grad():
        own, captured = spec.module(images), quantized.float_model.raw(images)
    assert decibels(captured, own, own, outputs.form == "queries") > 70
    found = {name: nearness(quantized, name, outputs, images[:3], folder) for name in RUNTIMES}
    for each in found.values():
        assert each.float > 70, found
        assert each.int8 > min(each.nudged, 60) - 3, found
        assert each.same > 0.98, found


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_of_transformers_is_written_whole(tmp_path: Path, kind: str) -> None:
    checked(of_transformers(tmp_path / kind, kind), 64, tmp_path)


@pytest.mark.whole
@pytest.mark.parametrize(("name", "side", "scale"), LIBREYOLO)
def test_a_detector_of_libreyolo_is_written_whole(
    tmp_path: Path, name: str, side: int, scale: float
) -> None:
    pytest.importorskip("libreyolo")
    torch.manual_seed(0)
    spec = load(ModelConfig(name=f"libreyolo/{name}", num_classes=2))
    for part in spec.module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data *= scale
    checked(spec, side, tmp_path)
