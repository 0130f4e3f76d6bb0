"""From a name, a file or a function to a `ModelSpec`. The families are in `families/`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError

from subbyte.errors import SubbyteError, unknown
from subbyte.models import factory, families
from subbyte.models.config import (
    BUNDLED,
    LIBREYOLO,
    TIMM,
    TRANSFORMERS,
    ModelConfig,
    missing_checkpoint,
)
from subbyte.models.families import libreyolo as libreyolo_family
from subbyte.models.families import timm as timm_family
from subbyte.models.families import transformers as transformers_family
from subbyte.models.onnx import model as onnx_model
from subbyte.models.spec import ModelSpec
from subbyte.models.transformers_folder import task_of
from subbyte.utils.validation import explain, gathered, refuse

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BUNDLED",
    "ModelConfig",
    "ModelSpec",
    "brings_outputs",
    "build",
    "check",
    "is_classifier",
    "is_random",
    "load",
    "names",
]

# Libraries by what their models' names begin with.
LIBRARIES: Mapping[str, families.Library] = {
    TIMM: cast("families.Library", timm_family),
    LIBREYOLO: cast("families.Library", libreyolo_family),
    TRANSFORMERS: cast("families.Library", transformers_family),
}


def names(prefix: str = "") -> dict[str, list[str]]:
    """The names that `load` knows, by group; none of a library that is not installed.

    With a `prefix`, those that begin with it, and `SubbyteError` if there are none.
    """
    asked = families.known()
    library = _library(prefix)
    if library is not None:
        library.require()
        asked = [family for family in asked if family.GROUP == library.GROUP]
    elif not any(known.startswith(prefix) for known in LIBRARIES):
        asked = _without_libraries()
    found: dict[str, list[str]] = {}
    for family in asked:
        found.setdefault(family.GROUP, []).extend(family.names())
    if not prefix:
        return found
    kept = {g: [name for name in known if name.startswith(prefix)] for g, known in found.items()}
    if not any(kept.values()) and any(found.values()):
        raise unknown("model", prefix, [name for known in found.values() for name in known])
    return {group: members for group, members in kept.items() if members or not found[group]}


def check(config: ModelConfig) -> None:
    """Refuse what can be seen to be wrong without PyTorch: unknown names and missing files.

    Raises:
        SubbyteError: As `load`.
    """
    name = str(config.name)
    faults: list[str] = []
    with gathered(faults):
        if config.onnx is not None:
            onnx_model.check(config.onnx)
        elif config.factory is not None:
            factory.source_of(config.factory)
        elif (library := _library(name)) is not None:
            library.check(config)
        else:
            _family(name)
    with gathered(faults):
        if config.outputs is not None and ":" in config.outputs.form:
            factory.source_of(config.outputs.form)
    if config.checkpoint is not None and not config.checkpoint.exists():
        faults.append(str(missing_checkpoint(config.checkpoint)))
    refuse(faults)


def load(config: ModelConfig) -> ModelSpec:
    """The model that `config` asks for, in float32 and eval mode.

    What the configuration leaves random is the same on every call, and the caller's own random
    numbers are not touched.

    Raises:
        SubbyteError: The name is unknown, or weights cannot be fetched, read or fitted.
    """
    from subbyte.models.checkpoint import notes_of

    with _same_random_numbers():
        spec = _loader(config)(config)
    notes = (*spec.notes, *notes_of([config.checkpoint], config.checkpoint_key))
    return dataclasses.replace(spec, module=spec.module.float().eval(), notes=notes)


def build(
    name: str,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_key: str | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The module of a model by name, as `load` has it.

    Args:
        name: One of `names`.
        weights: The name of published weights.
        checkpoint: A file with a state dict, instead of `weights`.
        checkpoint_key: Under which of the file's keys it is, as "ema.module". Without it a warning
            names others that the file holds.
        num_classes: The number of outputs, where neither of these decides it.

    Raises:
        SubbyteError: As `load`.
    """
    file = None if checkpoint is None else Path(checkpoint)
    try:
        config = ModelConfig(
            name=name,
            weights=weights,
            checkpoint=file,
            checkpoint_key=checkpoint_key,
            num_classes=num_classes,
        )
    except ValidationError as error:
        raise explain(error, ModelConfig) from None
    spec = load(config)
    for note in spec.notes:
        warnings.warn(note, stacklevel=2)
    return spec.module


def is_classifier(config: ModelConfig) -> bool:
    """Whether a configuration is known to be a classifier's before anything is loaded."""
    if config.name is not None and config.name.startswith(TRANSFORMERS):
        return task_of(config.name) == "classification"
    if config.name is not None and config.name.startswith(LIBREYOLO):
        return False
    detectors = [family for family in families.known() if family.TASK == "detection"]
    named = any(str(config.name) in family.names() for family in detectors)
    return config.name is not None and config.outputs is None and not named


def brings_outputs(config: ModelConfig) -> bool:
    """Whether a model by name is a raw network of which it is known what it gives."""
    libraries = (LIBREYOLO, TRANSFORMERS)
    return (config.name or "").startswith(libraries) and not is_classifier(config)


def is_random(config: ModelConfig) -> bool:
    """Whether a model by name has random weights, because none were asked for."""
    if config.name is None or config.name.startswith(TRANSFORMERS) or config.name in BUNDLED:
        return False
    return config.weights is None and config.checkpoint is None


def _loader(config: ModelConfig) -> Callable[[ModelConfig], ModelSpec]:
    if config.onnx is not None:
        return onnx_model.load
    if config.factory is not None:
        return factory.load
    name = str(config.name)
    library = _library(name)
    return _family(name).load if library is None else library.load


def _library(name: str) -> families.Library | None:
    """The library that a name begins with."""
    return next((LIBRARIES[known] for known in LIBRARIES if name.startswith(known)), None)


def _family(name: str) -> families.ModelFamily:
    """The family that has a model of this name, which is none of a library's."""
    for family in _without_libraries():
        if name in family.names():
            return family
    if name.endswith(factory.FILE):
        raise factory.names_no_function(name)
    if f"{TIMM}{name.partition('.')[0]}" in timm_family.names():
        raise SubbyteError(f"unknown model '{name}': timm has one, so write {TIMM}{name}")
    raise unknown(
        "model", name, [known for family in _without_libraries() for known in family.names()]
    )


def _without_libraries() -> list[families.ModelFamily]:
    groups = {library.GROUP for library in LIBRARIES.values()}
    return [family for family in families.known() if family.GROUP not in groups]


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed the accelerators too, which are not forked.
        torch.default_generator.manual_seed(0)
        yield
