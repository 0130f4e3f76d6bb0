"""Networks with what XNNPACK takes and does not take, and how their files are compared."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subbyte
from subbyte.placement.simulation import Simulation

SIDE = 12


class Joined(nn.Module):
    """A residual addition, a concatenation and pooling in between, a linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 3, 2, 1)
        x = F.relu(x + self.second(x))
        y = torch.cat([F.relu6(self.left(x)), F.hardtanh(self.right(x))], 1)
        return self.last(y.mean((2, 3)))


class Gated(nn.Module):
    """Squeeze and excitation, with functions that XNNPACK has and one that it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.first(x))
        y = F.silu(self.second(torch.cat([x], 1)))
        weight = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        y = self.last(y * F.hardsigmoid(weight))
        return F.adaptive_avg_pool2d(y, 1).flatten(1)


class Turned(nn.Module):
    """Transposed convolutions, parts of a tensor, zeros around it, and averages that count them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(4, 6, 2, 2)
        self.grouped = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.last = nn.Conv2d(12, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.first(x)).chunk(2, 1)
        y = torch.cat([self.up(left), self.grouped(right)], 1)
        y = F.avg_pool2d(y, 3, 2, 1)
        return self.last(F.pad(y, (1, 0, 1, 0)))


class Attention(nn.Module):
    """Linear layers, products of activations and a layer norm, on patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1)
        x = x + self.out(weights @ v)
        x = x + self.narrow(F.gelu(self.wide(self.norm(x))))
        return x.mean(1) @ self.head


NETWORKS = (Joined, Gated, Turned, Attention)


def images(count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


def quantized(network: type[nn.Module], bits: int = 8, **recipe: object) -> Simulation:
    """A network by ranges alone, for the target `executorch`."""
    torch.manual_seed(0)
    fields = {"weights": bits, "activations": bits, "method": "range", "ranges": "minmax"}
    asked = subbyte.Recipe(**{**fields, "target": "executorch", **recipe})
    return subbyte.quantize(network().eval(), [images(), images(seed=1)], asked)


@cache
def shared(network: type[nn.Module], bits: int = 8) -> Simulation:
    """The same for several tests, which leave it as it is."""
    return quantized(network, bits)


def step_of(simulation: Simulation) -> float:
    """The largest step of a quantized activation, which a tie may turn."""
    return max(float(q.scale.max()) for _, q in simulation.quantizers("activation"))
