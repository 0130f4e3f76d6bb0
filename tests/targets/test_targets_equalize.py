"""Channels that each have a limit of their own, in files and runtimes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from targets_helpers import RUNTIMES, deploy, differences, normal, operators, seeded, step
from torch import nn

import subbyte
from subbyte.numerics.qparams import TensorQParams
from subbyte.targets.onnx import export as onnx_files

pytestmark = pytest.mark.slow


def inverted() -> nn.Module:
    """An inverted residual block's layers and a head, with channels that differ a hundredfold."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 1), nn.ReLU6()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()),
        nn.Conv2d(16, 4, 1),
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= torch.logspace(-1, 1, 16)[torch.randperm(16)].reshape(-1, 1, 1, 1)
            layer.bias.normal_(1)
    return model


@pytest.mark.parametrize("fields", [{}, {"weights": 4, "activations": 4}], ids=["w8a8", "w4a4"])
def test_limits_are_kept_as_integers_in_both_runtimes(
    fields: dict[str, int], tmp_path: Path
) -> None:
    model, path = seeded(inverted), tmp_path / "model.onnx"
    batch = 5 * normal(4, 3, 8, 8)
    quantized = deploy(model, batch, path, equalize=True, first_last=None, **fields)
    # Twice what it was calibrated on as well, so that limits are met.
    batch = torch.cat([5 * normal(4, 3, 8, 8, seed=2), 10 * normal(4, 3, 8, 8, seed=3)])
    assert ((model[:1](batch) > 6).float().mean((0, 2, 3)) > 0.1).any()
    assert operators(path)["Min"] == 2
    limits = [
        numpy_helper.to_array(value)
        for value in onnx.load(str(path)).graph.initializer
        if value.name.endswith("_highest") and list(value.dims) == [1, 16, 1, 1]
    ]
    assert [limit.dtype.name for limit in limits] == ["uint8", "uint8"]
    for name, runtime in RUNTIMES.items():
        subbyte.export(quantized, tmp_path / name, batch[:2], target=name)
        for file in (path, tmp_path / name):
            assert differences(name, file, quantized, batch)[0] < 0.05 * step(quantized, "4")
            # What the last layer gives stays in float: ONNX Runtime needs a file of its own for it.
            in_float = name == "onnxruntime" and file == path
            assert runtime.load(file, 1).int8_ops() == (2 if in_float else 3)


def test_a_limit_beyond_the_integers_costs_nothing(tmp_path: Path) -> None:
    model, path = seeded(inverted), tmp_path / "model.onnx"
    quantized = subbyte.quantize(
        model, [normal(4, 3, 8, 8)], subbyte.Recipe(equalize=True, method="range")
    )
    for tensor, quantizer in quantized.activations():
        if tensor.layer in "24":
            scale = torch.full((1,), 0.0001)
            quantized.put(tensor.key, TensorQParams(scale, quantizer.zero_point))
    subbyte.export(quantized, path, normal(2, 3, 8, 8))
    assert operators(path)["Min"] == 0


def test_the_float_model_of_an_equalized_one(tmp_path: Path) -> None:
    model, batch = seeded(inverted), 5 * normal(4, 3, 8, 8)
    recipe = subbyte.Recipe(equalize=True, method="range")
    quantized = subbyte.quantize(model, [batch], recipe)
    path = tmp_path / "model.onnx"
    onnx_files.export_float(quantized, path, (batch,))
    with torch.no_grad():
        expected = model(batch)
    for runtime in RUNTIMES.values():
        outputs = torch.from_numpy(runtime.load(path, 1).run(batch.numpy())[0])
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-4)
