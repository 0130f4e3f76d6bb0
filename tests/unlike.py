"""A network whose channels have ranges that differ by a factor of a thousand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 8
ACTIVATIONS = {
    "SiLU": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "GELU": nn.GELU(),
    "ReLU": nn.ReLU(),
    "leaky ReLU": nn.LeakyReLU(0.1),
    "none": nn.Identity(),
}


class Unlike(nn.Module):
    """Channels of unlike ranges, and a depthwise layer that reads them."""

    def __init__(self, act: nn.Module, multiplier: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.act = nn.Conv2d(3, CHANNELS, 3, padding=1), act
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS * multiplier, 3, padding=1, groups=CHANNELS)
        self.last = nn.Conv2d(CHANNELS * multiplier, 4, 1)
        ranges = torch.logspace(-1, 2, CHANNELS)
        with torch.no_grad():
            self.stem.weight *= ranges.reshape(-1, 1, 1, 1)
            self.stem.bias *= ranges
            self.depthwise.weight /= ranges.repeat_interleave(multiplier).reshape(-1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.depthwise(self.act(self.stem(x)))))


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def decibels(expected: Tensor, found: Tensor) -> float:
    noise = (expected - found).double().square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(expected.double().square().sum() / noise))
