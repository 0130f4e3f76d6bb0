"""The residual block that tests of several rooms build networks of."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions and what goes past them, then a ReLU, as in He et al. 2015 (ResNet)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum, of the same shape as `x`."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))
