"""Classifiers and detectors of Hugging Face's transformers, whose names begin with "transformers/".

What stands behind that is a folder that `save_pretrained` has written, or the name of a model in
the hub's cache.
"""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subbyte.errors import SubbyteError
from subbyte.models.config import TRANSFORMERS, ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec

GROUP = "transformers"
TASK = "classification"  # or detection: `task_of` says it of each model

# How the names of architectures go on behind the network's own.
HEADS: dict[str, Literal["classification", "detection"]] = {
    "ForImageClassification": "classification",
    "ForObjectDetection": "detection",
}
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
    from huggingface_hub import constants

    found = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        kept = _cached(name)
        if kept is not None and _head(kept) is not None:
            found.append(f"{TRANSFORMERS}{name}")
    return found


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
    if _head(folder) is None:
        kinds = ", ".join(map(str, _architectures(folder))) or "of no named architecture"
        raise SubbyteError(
            f"{config.name} is {kinds}: give an image classifier (…ForImageClassification) or an "
            "object detector (…ForObjectDetection)"
        )
    if config.checkpoint is None and not any((folder / name).is_file() for name in WEIGHTS):
        raise SubbyteError(
            f"{folder} has a config.json and no weights: put model.safetensors there, as "
            "save_pretrained writes it, or give a checkpoint"
        )


def task_of(name: str) -> Literal["classification", "detection"]:
    """What a model is for.

    Raises:
        SubbyteError: It is not here.
    """
    return _head(folder_of(name)) or "classification"


def folder_of(name: str) -> Path:
    """The folder with a model's config.json: the one that is named, or that of the hub's cache.

    Raises:
        SubbyteError: There is none.
    """
    named = name.removeprefix(TRANSFORMERS)
    folder = Path(named).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise SubbyteError(
            f"{folder} has no config.json: name a folder that save_pretrained has written"
        )
    kept = _cached(named)
    if kept is None:
        known = names()
        others = f"; in the cache are {', '.join(known[:12])}" if known else ""
        raise SubbyteError(
            f"{name} is neither a folder nor in Hugging Face's cache: fetch it once with a network "
            f"(hf download {named}), or name the folder that it lies in{others}"
        )
    return kept


def _cached(name: str) -> Path | None:
    """The folder of a model in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path, and not the name of a model
        return None
    return Path(found).parent if isinstance(found, str) else None


def _head(folder: Path) -> Literal["classification", "detection"] | None:
    for architecture in _architectures(folder):
        for head, task in HEADS.items():
            if head in str(architecture):
                return task
    return None


def _architectures(folder: Path) -> list[Any]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(f"{path} cannot be read as JSON ({reason})") from None
    kinds = found.get("architectures") if isinstance(found, dict) else None
    return list(kinds or [])
