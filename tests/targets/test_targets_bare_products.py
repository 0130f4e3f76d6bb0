"""Linear layers without a bias keep their int8 kernels in ONNX Runtime, whatever follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from targets_helpers import RUNTIMES, normal, placed_for, run, seeded
from torch import Tensor, nn

import subbyte

pytestmark = pytest.mark.slow  # many files, each run in both runtimes


class Attention(nn.Module):
    """One head whose queries, keys and values have no bias: five products."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 32**0.5
        return torch.softmax(scores, -1) @ self.v(x)


class Rows(nn.Module):
    """Something is added to a product of rows: a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + x.relu()


class Parameters(nn.Module):
    """A product with a parameter, and a parameter that is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x[:, :16] @ self.w + self.b).relu())


@pytest.mark.parametrize("target", [None, "onnxruntime"])
@pytest.mark.parametrize(
    ("make", "shape", "layers"),
    [(Attention, (4, 8, 32), 5), (Rows, (32, 16), 1), (Parameters, (8, 20), 2)],
)
def test_all_layers_have_int8_kernels(
    make: type[nn.Module],
    shape: tuple[int, ...],
    layers: int,
    target: str | None,
    tmp_path: Path,
) -> None:
    batch, path = normal(*shape), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(make), [batch], subbyte.Recipe(method="range"))
    subbyte.export(quantized, path, batch, target=target)
    assert RUNTIMES["onnxruntime"].load(path, 1).int8_ops() == layers
    expected = placed_for(quantized, target)(batch)
    found = torch.from_numpy(run("onnxruntime", path, batch)[0])
    # A value on the border between two integers may become either: few, each by a step.
    assert float((found - expected).abs().mean()) < 1e-3 * float(expected.abs().mean())
