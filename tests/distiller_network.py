"""A network as Distiller asks for it, every operation a module, and statistics of its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn


class Add(nn.Module):
    """A sum as a module."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return x + y


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.add = Add()
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's result."""
        return self.relu2(self.add(self.conv2(self.relu1(self.conv1(x))), x))


class Network(nn.Module):
    """A convolution with batch norm, pooling, a residual block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(Block(6))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, (images, 5)."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(self.avgpool(x).flatten(1))


def network() -> Network:
    """The network with weights and a batch norm that are not those of the start."""
    torch.manual_seed(3)
    made = Network()
    with torch.no_grad():
        made.bn1.running_mean.normal_()
        made.bn1.running_var.uniform_(0.5, 2)
        made.bn1.weight.uniform_(0.5, 2)
        made.bn1.bias.normal_()
        for module in made.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(2)
    return made.eval()


def batches() -> list[torch.Tensor]:
    """Two batches of unlike sizes."""
    torch.manual_seed(4)
    return [torch.randn(4, 3, 8, 8), torch.randn(2, 3, 8, 8) * 1.5 + 0.2]


def statistics(model: nn.Module, images: Sequence[torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Distiller's statistics of each module's inputs and output, by NumPy in float64."""
    seen: dict[tuple[str, Any], list[np.ndarray]] = {}

    def hook(name: str) -> Any:
        def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            for key, value in [*enumerate(inputs), ("output", output)]:
                rows = value.detach().double().flatten(1).numpy()
                seen.setdefault((name, key), []).append(rows)

        return keep

    leaves = [(name, m) for name, m in model.named_modules() if not list(m.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    with torch.no_grad():
        for batch in images:
            model(batch)
    for handle in handles:
        handle.remove()
    found: dict[str, dict[str, Any]] = {}
    for (name, key), parts in seen.items():
        rows = np.concatenate(parts)
        record = {
            "min": float(rows.min()),
            "max": float(rows.max()),
            "avg_min": float(rows.min(1).mean()),
            "avg_max": float(rows.max(1).mean()),
            "mean": float(rows.mean()),
            "std": float(rows.std()),
            "b": float(np.abs(rows - rows.mean()).mean()),
        }
        entry = found.setdefault(name, {"inputs": {}})
        if key == "output":
            entry["output"] = record
        else:
            entry["inputs"][key] = record
    return found
