"""Indices of 32 bits and arithmetic with lengths, with which PyTorch's exporter has trouble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subbyte
from subbyte.targets.base import runtime


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, between: Callable[[Tensor], Tensor], last: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.between, self.last = nn.Conv2d(3, 8, 3), between, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


AT = torch.tensor([0, 2, 5], dtype=torch.int32)


def _some(x: Tensor) -> Tensor:
    return x[:, :, AT]


def _put(x: Tensor) -> Tensor:
    places = torch.zeros_like(x)
    places[:, :, AT, AT] = 2 * x[:, :, AT, AT]
    return places


def _added(x: Tensor) -> Tensor:
    return x.index_add(2, AT, x[:, :, :3])


def _rows(change: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of the means of maps, which knows how many images there are."""
    return lambda x: change(x.mean((2, 3)), x.shape[0])


def _right(model: nn.Module, folder: Path) -> None:
    """Check a model's file in both runtimes at several sizes of the batch."""
    torch.manual_seed(1)
    recipe = subbyte.Recipe(method="range", activations=None)  # no value is next to a rounding
    images = torch.randn(5, 3, 8, 8)
    quantized = subbyte.quantize(model.eval(), [images[:4]], recipe)
    subbyte.export(quantized, folder / "m.onnx", images[:4])
    for name in ("onnxruntime", "openvino"):
        session = runtime(name).load(folder / "m.onnx", 1)
        for size in (1, 3, 5):
            (found,) = session.run(images[:size].numpy())
            expected = quantized(images[:size])
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("between", [_some, _put, _added])
def test_indices_of_32_bits(between: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    _right(Between(between, nn.Conv2d(8, 4, 1)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda x, n: x.repeat(3, 1)[: n << 1],
        lambda x, n: x + torch.arange(1 << n)[:n, None],
        lambda x, n: x.repeat(2, 1)[: n & 6 | 1],
        lambda x, n: x * torch.sym_sqrt(n),
    ],
    ids=["shifted", "shifts", "bits", "root"],
)
def test_arithmetic_with_the_size_of_the_batch(
    change: Callable[[Tensor, int], Tensor], tmp_path: Path
) -> None:
    _right(Between(_rows(change), nn.Linear(8, 4)), tmp_path)


class Spectrum(nn.Module):
    """A signal by the spectrum of another one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
        self.register_buffer("window", torch.hann_window(8))

    def forward(self, x: Tensor) -> Tensor:
        signal = self.inner(x).flatten(1).repeat(1, 2)
        spectrum = torch.stft(signal, 8, 2, window=self.window, return_complex=True)
        return torch.istft(0.5 * spectrum, 8, 2, window=self.window, length=32)


@pytest.mark.slow
def test_a_signal_of_its_short_spectra(tmp_path: Path) -> None:
    _right(Spectrum(), tmp_path)
