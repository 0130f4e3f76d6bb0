"""Classifiers and detectors of Hugging Face's transformers, whose names begin with "transformers/".

What stands behind that is a folder that `save_pretrained` has written, or the name of a model in
the hub's cache.
"""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING

from subbyte.errors import SubbyteError
from subbyte.models.config import ModelConfig
from subbyte.models.transformers_folder import architectures, cached_names, folder_of, head_of

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "transformers"
TASK = "classification"  # or detection: `task_of` says it of each model

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def names() -> list[str]:
    """The classifiers and detectors in the hub's cache, as transformers/OWNER/NAME."""
    if util.find_spec("huggingface_hub") is None or util.find_spec("transformers") is None:
        return []
    return cached_names()


def load(config: ModelConfig) -> ModelSpec:
    """A model of transformers with its own weights or a checkpoint's."""
    check(config)
    from subbyte.models import transformers

    return transformers.load(config)


def require() -> None:
    """Raise `SubbyteError` unless transformers is installed."""
    if util.find_spec("transformers") is None:
        raise SubbyteError(
            "transformers, which models named transformers/NAME need, is not installed: "
            "pip install 'subbyte[transformers]'"
        )


def check(config: ModelConfig) -> None:
    """Refuse what can be seen to be wrong without PyTorch.

    Raises:
        SubbyteError: transformers is not installed, there is no such model here or it has no
            weights, or it neither classifies images nor finds objects.
    """
    require()
    folder = folder_of(str(config.name))
    if head_of(folder) is None:
        kinds = ", ".join(map(str, architectures(folder))) or "of no named architecture"
        raise SubbyteError(
            f"{config.name} is {kinds}: give an image classifier (…ForImageClassification) or an "
            "object detector (…ForObjectDetection)"
        )
    if config.checkpoint is None and not any((folder / name).is_file() for name in WEIGHTS):
        raise SubbyteError(
            f"{folder} has a config.json and no weights: put model.safetensors there, as "
            "save_pretrained writes it, or give a checkpoint"
        )
