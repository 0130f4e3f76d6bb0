from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subbyte


class KernelForEachImage(nn.Module):
    """Every image is convolved with a kernel of its own, as in CondConv."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(2, 4, 3, 3, 3))
        self.gate, self.last = nn.Linear(3, 2), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = (self.gate(x.mean((2, 3))) @ self.kernels.flatten(1)).view(n * 4, 3, 3, 3)
        y = nn.functional.conv2d(x.reshape(1, n * c, h, w), kernel, groups=n)
        return self.last(y.view(n, 4, h - 2, w - 2))


def refusal(model: nn.Module, *shape: int) -> str:
    with pytest.raises(subbyte.SubbyteError) as caught:
        subbyte.quantize(model.eval(), [torch.randn(*shape)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_kernel_for_each_image_names_the_line() -> None:
    first = KernelForEachImage.forward.__code__.co_firstlineno
    told = refusal(KernelForEachImage(), 4, 3, 8, 8)
    assert f"cannot be written as ONNX at {Path(__file__)}:{first + 3}: a convolution" in told


@pytest.mark.parametrize(
    ("pool", "shape", "told"),
    [
        (nn.AdaptiveMaxPool2d(4), (2, 3, 8, 9), "pooling of 8 × 9 to 4 × 4"),
        (nn.AdaptiveMaxPool1d(2), (2, 3, 7), "pooling of 7 to 2"),
    ],
)
def test_windows_of_several_sizes_name_the_module(
    pool: nn.Module, shape: tuple[int, ...], told: str
) -> None:
    conv = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    text = refusal(nn.Sequential(conv(3, 4, 1), pool), *shape)
    assert f"in the module '1': adaptive maximum {told}" in text


def test_windows_of_one_size_are_taken() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d(4))
    subbyte.quantize(model.eval(), [torch.randn(2, 3, 8, 12)])
