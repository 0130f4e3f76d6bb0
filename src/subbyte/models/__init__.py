"""From a name, a file or a function to a `ModelSpec`; one file a family of models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from subbyte.errors import unknown
from subbyte.models import cifar_resnet, digits, factory
from subbyte.models import torchvision as torchvision_models
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec
from subbyte.validation import explain

__all__ = ["ModelConfig", "ModelSpec", "build", "load", "names"]


@dataclasses.dataclass(frozen=True)
class _Family:
    names: Callable[[], list[str]]
    load: Callable[[ModelConfig], ModelSpec]


_FAMILIES = {
    "bundled": _Family(digits.names, digits.load),
    "cifar": _Family(cifar_resnet.names, cifar_resnet.load),
    "torchvision": _Family(torchvision_models.names, torchvision_models.load),
}


def names() -> dict[str, list[str]]:
    """The names that `load` knows, by family."""
    return {group: family.names() for group, family in _FAMILIES.items()}


def load(config: ModelConfig) -> ModelSpec:
    """The model that `config` asks for, in float32 and eval mode.

    What the configuration leaves random is the same on every call, and the caller's own random
    numbers are not touched. Raises `SubbyteError` for an unknown name, and for weights that
    cannot be had, read or fitted.
    """
    with _same_random_numbers():
        spec = _loader(config)(config)
    return dataclasses.replace(spec, module=spec.module.float().eval())


def build(
    name: str,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The module of a model by name, as `load` has it; raises `SubbyteError` likewise."""
    file = None if checkpoint is None else Path(checkpoint)
    try:
        config = ModelConfig(name=name, weights=weights, checkpoint=file, num_classes=num_classes)
    except ValidationError as error:
        raise explain(error, ModelConfig) from None
    return load(config).module


def _loader(config: ModelConfig) -> Callable[[ModelConfig], ModelSpec]:
    if config.factory is not None:
        return factory.load
    for family in _FAMILIES.values():
        if config.name in family.names():
            return family.load
    known = [name for group in names().values() for name in group]
    raise unknown("model", str(config.name), known)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed the accelerators too, which are not forked.
        torch.default_generator.manual_seed(0)
        yield
