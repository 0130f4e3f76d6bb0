"""The bundled model: a small residual network for scikit-learn's 8×8 digits."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subbyte.data.preprocessing import Preprocessing
from subbyte.models.checkpoint import load_checkpoint
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec

CLASSES = tuple(str(digit) for digit in range(10))
WEIGHTS = Path(__file__).parent / "weights" / "digits.safetensors"
# Mean and standard deviation of the training half's pixels, on the scale of 0 to 1.
PREPROCESSING = Preprocessing(resize=(8, 8), mean=(0.305,), std=(0.376,))


class _Block(nn.Module):
    """Two 3×3 convolutions around a shortcut, which is a 1×1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class Digits(nn.Module):
    """Images of shape (N, 1, 8, 8) to logits of shape (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.block1 = _Block(16, 16, stride=1)
        self.block2 = _Block(16, 32, stride=2)
        self.block3 = _Block(32, 64, stride=2)
        self.linear = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def load(config: ModelConfig) -> ModelSpec:
    """The digits model with its bundled weights, or with those of `config.checkpoint`."""
    module = Digits()
    load_checkpoint(module, config.checkpoint or WEIGHTS, config.checkpoint_key)
    return ModelSpec(
        name="digits",
        module=module,
        task="classification",
        preprocessing=PREPROCESSING,
        classes=CLASSES,
    )
