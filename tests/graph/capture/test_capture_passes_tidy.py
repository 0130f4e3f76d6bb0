from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import subbyte


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rrelu(self.conv(x), 0.1, 0.7)


@pytest.mark.parametrize(
    "activation", [nn.RReLU(), nn.RReLU(0.2, 0.6), _Functional()], ids=["plain", "slopes", "called"]
)
def test_a_relu_that_draws_slopes_has_their_mean(activation: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = activation if isinstance(activation, _Functional) else nn.Conv2d(3, 8, 3)
    last = nn.Conv2d(8, 4, 1)
    middle = [] if first is activation else [activation]
    model = nn.Sequential(first, *middle, last).eval()
    x = torch.randn(4, 3, 8, 8)
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range", ranges="minmax"))
    subbyte.export(quantized, tmp_path / "model.onnx", x)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected, simulated = model(x), quantized(x)
    torch.testing.assert_close(torch.from_numpy(found), simulated, atol=1e-4, rtol=1e-4)
    assert (simulated - expected).abs().max() < 0.05 * expected.abs().max()
