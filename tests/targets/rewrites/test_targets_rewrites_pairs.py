from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from rewrites_helpers import evaluated, kinds, model, normal, qdq, rewritten
from targets_helpers import RUNTIMES, differences, placed_for
from torch import Tensor, nn
from torch.nn import functional as F

import subbyte
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.pairs import part_pairs

SHAPE = "(float[N, 3, 4, 5] x) => (float[N, 3, 4, 5] y) "


def test_onnx_runtime_rounds_twice_what_is_rounded_twice() -> None:
    before = model(f"{SHAPE} {{ a = {qdq(0.03, 128)} (x) y = {qdq(0.0311, 100)} (a) }}")
    after = rewritten(before, write_own_operators, part_pairs)
    assert kinds(after) == {"QuantizeLinear": 2, "Clip": 1, "DequantizeLinear": 2}
    file, x = ir.to_proto(after).SerializeToString(), normal(2, 3, 4, 5, scale=2.0)
    onnx.checker.check_model(file)
    (found,) = onnxruntime.InferenceSession(file).run(None, {"x": x})
    np.testing.assert_allclose(found, evaluated(before, x)[0], atol=1e-6)


def test_the_same_rounding_again_stays() -> None:
    before = model(f"{SHAPE} {{ a = {qdq(0.03, 128)} (x) y = {qdq(0.03, 128)} (a) }}")
    after = rewritten(before, write_own_operators, part_pairs)
    assert kinds(after) == {"QuantizeLinear": 2, "DequantizeLinear": 2}


class Padded(nn.Module):
    """Padding that is quantized again, between a convolution and a pooling."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.avg_pool2d(F.pad(self.first(x), (1, 1, 1, 1), mode=self.mode), 3, 2))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_before_a_pooling_is_as_simulated(mode: str, tmp_path: Path) -> None:
    batch, path = torch.from_numpy(normal(2, 3, 14, 14)), tmp_path / "model.onnx"
    quantized = subbyte.quantize(Padded(mode), [batch], subbyte.Recipe(method="range"))
    for target in RUNTIMES:
        subbyte.export(quantized, path, batch, target=target)
        assert differences(target, path, placed_for(quantized, target), batch)[0] < 1e-5, target
