"""Biases of linear layers in the shapes that PyTorch broadcasts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.targets import onnxruntime


class Shaped(nn.Module):
    """A linear layer with a bias of this shape, which something else reads too, perhaps."""

    def __init__(self, *shape: int, shared: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(shape))
        self.last, self.shared = nn.Linear(8, 5), shared

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias).relu()
        return self.last(y * self.bias.sigmoid() if self.shared else y)


CASES = {
    "row": (lambda: Shaped(1, 8), (6,)),
    "one": (lambda: Shaped(1), (6,)),
    "shared": (lambda: Shaped(1, 8, shared=True), (6,)),
    "tokens": (lambda: Shaped(3, 8), (3, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bias_of_any_shape(name: str, tmp_path: Path) -> None:
    make, shape = CASES[name]
    model, x = make().eval(), torch.randn(16, *shape)
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range", **FITTING))
    with torch.no_grad():
        exact, found = model.double()(x.double()), quantized(x)
    assert float((found - exact).norm() / exact.norm()) < 0.02
    subbyte.export(quantized, tmp_path / "model.onnx", x[:2])
    (deployed,) = onnxruntime.load(tmp_path / "model.onnx", 1).run(x.numpy())
    assert float((torch.from_numpy(deployed) - found).norm() / found.norm()) < 1e-5


def test_a_row_is_rounded_to_the_scale_of_the_sums() -> None:
    row, plain = Shaped(1, 8).eval(), Shaped(8).eval()
    plain.load_state_dict({**row.state_dict(), "bias": row.bias[0]})
    x = torch.randn(16, 6)
    found, expected = (subbyte.quantize(model, [x]) for model in (row, plain))
    assert torch.equal(found(x), expected(x))
    assert row.bias.shape == (1, 8)
