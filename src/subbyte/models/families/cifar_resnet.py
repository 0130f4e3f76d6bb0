"""The ResNets for CIFAR-10, which take a published file as checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.models.config import ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "cifar"
TASK = "classification"

DEPTHS = (20, 32, 44, 56, 110)


def names() -> list[str]:
    """`cifar_resnet20` to `cifar_resnet110`."""
    return [f"cifar_resnet{depth}" for depth in DEPTHS]


def load(config: ModelConfig) -> ModelSpec:
    """A CIFAR ResNet by name, with a checkpoint's weights or random ones."""
    from subbyte.models import cifar_resnet

    return cifar_resnet.load(config)
