from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from targets_helpers import RUNTIMES, differences, normal, operators
from torch import Tensor, nn

import subbyte

pytestmark = pytest.mark.slow  # many files, each run in both runtimes

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rfft": lambda x: torch.fft.rfft(x).abs(),
    "angle": lambda x: torch.fft.rfft(x).angle().cos() + torch.fft.fft(x).angle()[..., :4],
    "longer": lambda x: torch.fft.rfft(x, n=9, dim=2).real,
    "fft": lambda x: torch.view_as_real(torch.fft.fft(x)).flatten(3),
    "fft2": lambda x: torch.fft.fft2(x, norm="forward").imag,
    "fnet": lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real,
    "ifft": lambda x: torch.fft.ifft2(torch.fft.rfft2(x), s=(6, 5)).real,
    "filtered": lambda x: torch.fft.irfft2(
        torch.fft.rfft2(x) * torch.fft.rfft2(x.flip(3)), s=(6, 7)
    ),
    "channels": lambda x: torch.fft.irfftn(
        torch.fft.rfftn(x, dim=(1, 3), norm="ortho") * (1 + 2j), s=(4, 7), dim=(1, 3), norm="ortho"
    ),
    "spectrogram": lambda x: torch.stft(
        x.flatten(1)[:, :64], 16, window=torch.ones(16), return_complex=True
    ).abs(),
}


class Transformed(nn.Module):
    """A convolution whose result is transformed."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.transform = nn.Conv2d(3, 4, 3, padding=1), transform

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(self.conv(x))


def _whole(images: int) -> Tensor:
    """Images of numbers that quantization to 8 bits leaves as they are."""
    values = torch.randint(256, (images, 3, 6, 7), generator=torch.Generator().manual_seed(images))
    values.flatten()[:2] = torch.tensor([0, 255])
    return values.float()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_both_runtimes_transform_as_pytorch_does(name: str, tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", _whole(3)
    quantized = subbyte.quantize(
        Transformed(TRANSFORMS[name]), [batch], subbyte.Recipe(method="range", ranges="minmax")
    )
    subbyte.export(quantized, path, batch)
    assert not {"DFT", "STFT"} & set(operators(path))
    other = _whole(5)
    size = float(quantized(other).abs().max())
    for runtime in RUNTIMES:
        assert differences(runtime, path, quantized, other)[0] < 1e-5 * size, runtime


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda x: torch.fft.fft(x, dim=0).abs(), "along a dimension of any length, such as"),
        (lambda x: torch.fft.rfft(x, n=3000).abs(), "a Fourier transform of 3000 values"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_line(
    transform: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(subbyte.SubbyteError, match=rf"\.py:\d+: .*{re.escape(message)}"):
        subbyte.quantize(Transformed(transform), [normal(2, 3, 4, 4)], subbyte.Recipe())
