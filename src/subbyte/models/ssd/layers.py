"""Layers that the SSDs have and PyTorch has not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledNorm(nn.Module):
    """Each position's vector of channels at length 1, times a learned weight a channel.

    Liu et al. 2015, "ParseNet", section 3.3; SSD's conv4_3 has it with weights of 20.
    """

    def __init__(self, channels: int, scale: float = 20.0, eps: float = 1e-10) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        # vector_norm, and not a root of squares: its gradient is 0 where all channels are 0.
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True) + self.eps
        scaled: Tensor = x / length * self.weight.view(1, -1, 1, 1)
        return scaled


class ConvReLU(nn.Conv2d):
    """A convolution with its ReLU, under the one name of the convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        return F.relu(super().forward(input))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, "MobileNetV2", figure 4, where `hidden` is the width within."""

    def __init__(self, inputs: int, outputs: int, stride: int, hidden: int) -> None:
        super().__init__()
        expand = [] if hidden == inputs else conv_bn(inputs, hidden, 1, act=nn.ReLU6)
        depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6)
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*expand, *depthwise, *project)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    groups: int = 1,
    act: type[nn.Module] = nn.ReLU,
) -> list[nn.Module]:
    """Convolution without bias, batch norm, activation.

    Args:
        inputs: Channels.
        outputs: Channels.
        kernel: The side of the kernel.
        stride: In both directions.
        padding: On each side; `None`: so that stride 1 keeps the size.
        groups: Of channels that do not mix.
        act: The activation's class.
    """
    padding = kernel // 2 if padding is None else padding
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        act(),
    ]


def separable(
    inputs: int, outputs: int, stride: int = 1, *, padding: int = 1, norm: bool = False
) -> nn.Sequential:
    """A 3×3 convolution for each channel, an activation, and a 1×1 convolution across them.

    Args:
        inputs: Channels.
        outputs: Channels.
        stride: Of the first convolution.
        padding: Of the first convolution, on each side.
        norm: Batch norm and ReLU6 are between the two, otherwise ReLU alone.
    """
    middle = [nn.BatchNorm2d(inputs), nn.ReLU6()] if norm else [nn.ReLU()]
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding, groups=inputs),
        *middle,
        nn.Conv2d(inputs, outputs, 1),
    )
