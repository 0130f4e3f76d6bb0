from __future__ import annotations

from pathlib import Path

import pytest
import torch
from targets_helpers import RUNTIMES, placed_for, run

import subbyte
from unlike import ACTIVATIONS, Unlike, decibels, noise

pytestmark = pytest.mark.slow  # many files, each run in both runtimes


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", None])
@pytest.mark.parametrize("act", ["SiLU", "hardswish", "leaky ReLU"])
def test_files_compute_what_the_simulation_does(
    act: str, target: str | None, tmp_path: Path
) -> None:
    x, path = noise(32), tmp_path / "model.onnx"
    quantized = subbyte.quantize(Unlike(ACTIVATIONS[act]).eval(), [x])
    assert quantized.float_model.factors
    subbyte.export(quantized, path, x, target=target)
    with torch.no_grad():
        expected = placed_for(quantized, target)(x)
    for runtime in [target] if target else list(RUNTIMES):
        assert decibels(expected, torch.from_numpy(run(runtime, path, x)[0])) > 60
        # The file for all leaves the last convolution in float in ONNX Runtime.
        assert RUNTIMES[runtime].load(path, 1).int8_ops() >= (3 if target else 2)
