"""Folders with models of Hugging Face's transformers, read without PyTorch."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Any, Literal

from subbyte.errors import SubbyteError
from subbyte.models.config import TRANSFORMERS

# How the names of architectures go on behind the network's own.
HEADS: dict[str, Literal["classification", "detection"]] = {
    "ForImageClassification": "classification",
    "ForObjectDetection": "detection",
}


def cached_names() -> list[str]:
    """The classifiers and detectors in the hub's cache, as transformers/OWNER/NAME."""
    from huggingface_hub import constants

    found = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        kept = _cached(name)
        if kept is not None and head_of(kept) is not None:
            found.append(f"{TRANSFORMERS}{name}")
    return found


def task_of(name: str) -> Literal["classification", "detection"]:
    """What a model is for.

    Raises:
        SubbyteError: It is not here.
    """
    return head_of(folder_of(name)) or "classification"


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
        known = cached_names()
        others = f"; in the cache are {', '.join(known[:12])}" if known else ""
        raise SubbyteError(
            f"{name} is neither a folder nor in Hugging Face's cache: fetch it once with a network "
            f"(hf download {named}), or name the folder that it lies in{others}"
        )
    return kept


def _cached(name: str) -> Path | None:
    """The folder of a model in the hub's cache."""
    if util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path, and not the name of a model
        return None
    return Path(found).parent if isinstance(found, str) else None


def head_of(folder: Path) -> Literal["classification", "detection"] | None:
    """What the model in a folder is for; `None`: neither of the two."""
    for architecture in architectures(folder):
        for head, task in HEADS.items():
            if head in str(architecture):
                return task
    return None


def architectures(folder: Path) -> list[Any]:
    """The names of the classes of the model in a folder.

    Raises:
        SubbyteError: Its config.json cannot be read.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(f"{path} cannot be read as JSON ({reason})") from None
    kinds = found.get("architectures") if isinstance(found, dict) else None
    return list(kinds or [])
