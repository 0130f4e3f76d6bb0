"""The ResNets for CIFAR-10 of He et al. 2015, "Deep Residual Learning", section 4.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subbyte.data.preprocessing import Preprocessing
from subbyte.models.checkpoint import load_state, read_checkpoint
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec

WIDTHS = (16, 32, 64)
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class _Block(nn.Module):
    """Two 3×3 convolutions around a shortcut without parameters (the paper's option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.new_channels == 0:
            return x
        before = self.new_channels // 2
        after = self.new_channels - before
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))


class CifarResNet(nn.Module):
    """Images of shape (N, 3, 32, 32) to logits of shape (N, `num_classes`); `depth` is 6n + 2."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, `num_classes`)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def load(config: ModelConfig) -> ModelSpec:
    """A CIFAR ResNet by name, with a checkpoint's weights or random ones."""
    name = str(config.name)
    depth = int(name.removeprefix("cifar_resnet"))
    if config.checkpoint is None:
        module = CifarResNet(depth, config.num_classes or len(CLASSES))
    else:
        state = read_checkpoint(config.checkpoint, key=config.checkpoint_key)
        module = CifarResNet(depth, config.num_classes or _outputs(state))
        load_state(module, state, config.checkpoint)
    ten = module.linear.out_features == len(CLASSES)
    return ModelSpec(
        name=name,
        module=module,
        task="classification",
        preprocessing=Preprocessing(),
        classes=CLASSES if ten else None,
    )


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def _outputs(state: dict[str, Tensor]) -> int:
    weight = state.get("linear.weight")
    return len(CLASSES) if weight is None or weight.ndim != 2 else len(weight)
