"""From a name, a file or a function to a `ModelSpec`; one file a family of models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from subbyte.errors import SubbyteError, unknown
from subbyte.models import cifar_resnet, digit_scenes, digits, factory, ssd, torchvision_detectors
from subbyte.models import timm as timm_models
from subbyte.models import torchvision as torchvision_models
from subbyte.models.config import BUNDLED, TIMM, ModelConfig
from subbyte.models.spec import ModelSpec
from subbyte.utils.validation import explain

__all__ = [
    "BUNDLED",
    "ModelConfig",
    "ModelSpec",
    "build",
    "is_classifier",
    "load",
    "names",
]


@dataclasses.dataclass(frozen=True)
class _Family:
    names: Callable[[], list[str]]
    load: Callable[[ModelConfig], ModelSpec]


def _bundled(config: ModelConfig) -> ModelSpec:
    return digits.load(config) if config.name in digits.names() else digit_scenes.load(config)


_FAMILIES = {
    "bundled": _Family(lambda: [*digits.names(), *digit_scenes.names()], _bundled),
    "cifar": _Family(cifar_resnet.names, cifar_resnet.load),
    "ssd": _Family(ssd.names, ssd.load),
    "torchvision": _Family(torchvision_models.names, torchvision_models.load),
    "torchvision detectors": _Family(torchvision_detectors.names, torchvision_detectors.load),
}


def names(prefix: str = "") -> dict[str, list[str]]:
    """The names that `load` knows, by family; of timm none where it is not installed.

    With a `prefix`, those that begin with it, and `SubbyteError` if there are none.
    """
    found = {group: family.names() for group, family in _FAMILIES.items()}
    if prefix.startswith(TIMM):
        found = {"timm": timm_models.names(required=True)}
    elif TIMM.startswith(prefix):
        found["timm"] = timm_models.names()
    if not prefix:
        return found
    kept = {g: [name for name in known if name.startswith(prefix)] for g, known in found.items()}
    if not any(kept.values()):
        raise unknown("model", prefix, [name for known in found.values() for name in known])
    return {group: members for group, members in kept.items() if members}


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


def is_classifier(config: ModelConfig) -> bool:
    """Whether a configuration can be told to be of a classifier before anything is loaded."""
    name = str(config.name)
    detectors = (*ssd.names(), *digit_scenes.names(), *torchvision_detectors.names())
    return config.factory is None and name not in detectors


def _loader(config: ModelConfig) -> Callable[[ModelConfig], ModelSpec]:
    if config.factory is not None:
        return factory.load
    name = str(config.name)
    if name.startswith(TIMM):  # looked up by itself: importing timm takes a second
        return timm_models.load
    for family in _FAMILIES.values():
        if name in family.names():
            return family.load
    if f"{TIMM}{name.partition('.')[0]}" in timm_models.names():
        raise SubbyteError(f"unknown model '{name}': timm has one, so write {TIMM}{name}")
    known = [member for family in _FAMILIES.values() for member in family.names()]
    raise unknown("model", name, known)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed the accelerators too, which are not forked.
        torch.default_generator.manual_seed(0)
        yield
