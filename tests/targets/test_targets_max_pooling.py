"""Maximum pooling with padding that is wider at one end."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from targets_helpers import normal, run, seeded
from torch import Tensor, nn

import subbyte
from processor import FITTING


class Same(nn.Module):
    """Pooling as TensorFlow pads it, by minus infinity at the end, read past a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(F.pad(self.first(x), (0, 1, 0, 1), value=-torch.inf), 2, 1)
        return self.last(torch.cat([pooled, self.side(x)], 1))


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, "onnxruntime", "openvino"])
def test_padding_with_minus_infinity_becomes_the_poolings_own(
    target: str | None, tmp_path: Path
) -> None:
    model, x, path = seeded(Same), normal(4, 3, 8, 8), tmp_path / "model.onnx"
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range", **FITTING))
    assert all(layer.integer for layer in quantized.placement.layers)
    torch.testing.assert_close(quantized(x), model(x), atol=0.1, rtol=0)
    subbyte.export(quantized, path, x, target=target)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Pad" not in kinds
    for runtime in ("onnxruntime", "openvino") if target is None else (target,):
        found = torch.from_numpy(run(runtime, path, x)[0])
        torch.testing.assert_close(found, quantized(x), atol=0.02, rtol=0)


class Cropped(nn.Module):
    """Pooling that pads what has been cropped before: the least value takes the place of others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        cropped = F.pad(self.first(x), (-1, -1, -1, -1), value=-torch.inf)
        return self.last(F.max_pool2d(cropped, 3, 1, padding=1))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_is_cropped_in_front_of_pooling_stays_away(runtime: str, tmp_path: Path) -> None:
    model, x, path = seeded(Cropped), normal(4, 3, 8, 8), tmp_path / "model.onnx"
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range", **FITTING))
    subbyte.export(quantized, path, x)
    found = torch.from_numpy(run(runtime, path, x)[0])
    torch.testing.assert_close(found, quantized(x), atol=0.02, rtol=0)
