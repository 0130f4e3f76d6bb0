"""What tests of several methods quantize."""

from __future__ import annotations

import torch
from torch import nn


def model() -> nn.Module:
    """Two convolutions and a classifier for images of 3 channels, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
