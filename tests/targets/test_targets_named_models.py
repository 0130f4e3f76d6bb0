"""Models by name of transformers and libreyolo: quantized, written whole, and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

import subbyte
from subbyte.models import ModelConfig, ModelSpec, load
from subbyte.targets import base as targets

RECIPE = subbyte.Recipe(method="range", ranges="minmax")
RUNTIMES = ("onnxruntime", "openvino")
whole = pytest.mark.whole
CLASSIFIERS = ["vit", *(pytest.param(k, marks=pytest.mark.slow) for k in ("swin", "resnet"))]
DETECTORS = [
    pytest.param("yolos", marks=pytest.mark.slow),
    *(pytest.param(kind, marks=whole) for kind in ("detr", "rt_detr", "d_fine")),
]
LIBREYOLO = [("yolox-n", 128)]


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


def found_in(
    spec: ModelSpec, side: int, folder: Path, runtimes: tuple[str, ...] = RUNTIMES
) -> dict[str, float]:
    """In each runtime the share of the simulation's detections that the file finds."""
    images = torch.rand(4, 3, side, side)
    with_statistics(spec.module, images)
    quantized = subbyte.quantize(spec.module, [images], RECIPE, outputs=spec.outputs)
    in_float = {x.name for x in quantized.placement.layers if not x.integer and x.reason}
    assert {name.rpartition(".")[2] for name in in_float} <= {"integral"}  # a mean of distances
    shares = {}
    for name in runtimes:
        path = folder / f"{name}.onnx"
        subbyte.export(quantized, path, images[:2], target=name)
        session = targets.runtime(name).load(path, 1)
        found = total = 0
        for batch in (images[:1], images[1:]):
            with torch.no_grad():
                expected = quantized(batch)
            rows = zip(expected, *map(torch.from_numpy, session.run(batch.numpy())), strict=True)
            for known, boxes, scores, labels, count in rows:
                near = box_iou(known["boxes"], boxes[:count]) > 0.8
                near &= (known["scores"][:, None] - scores[:count]).abs() < 0.05
                near &= known["labels"][:, None] == labels[:count]
                found, total = found + int(near.any(1).sum()), total + len(near)
        assert total
        shares[name] = found / total
    return shares


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_of_transformers_is_written_whole(tmp_path: Path, kind: str) -> None:
    spec = of_transformers(tmp_path / kind, kind)
    shares = found_in(spec, 64, tmp_path)
    assert min(shares.values()) > 0.7, shares  # queries of random weights change places easily


@pytest.mark.whole
@pytest.mark.parametrize(("name", "side"), LIBREYOLO)
def test_a_detector_of_libreyolo_is_written_whole(tmp_path: Path, name: str, side: int) -> None:
    pytest.importorskip("libreyolo")
    spec: Any = load(ModelConfig(name=f"libreyolo/{name}", num_classes=2))
    shares = found_in(spec, side, tmp_path, ("onnxruntime",))
    assert shares["onnxruntime"] > 0.5  # boxes of random weights are nearly tied
