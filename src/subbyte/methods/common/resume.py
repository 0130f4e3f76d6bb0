"""What has been learned of each block, in files, so that a killed run goes on behind it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.float_model import FloatModel
from subbyte.numerics.qparams import QuantParams, TensorQParams
from subbyte.recipe import Recipe
from subbyte.utils import files
from subbyte.version import __version__

KEY = "subbyte"


def claim(folder: Path, work: dict[str, Any]) -> None:
    """Make `folder` the place of unfinished work that plain data describe.

    Raises:
        SubbyteError: The work in it is another one; what differs is named.
    """
    file = folder / "work.json"
    here = json.loads(json.dumps(work))
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        for key in [*there, *here]:
            if there.get(key) != here.get(key):
                raise SubbyteError(
                    f"the unfinished work in {folder} has {key} {there.get(key)} and this has "
                    f"{here.get(key)}: remove that folder, or go on with what it was begun with"
                )
        return
    files.make_folder(folder)
    files.write_text(file, json.dumps(here, indent=2))


def restore(
    folder: Path, key: str, device: torch.device
) -> tuple[QuantParams, dict[str, torch.Tensor], dict[str, Any]] | None:
    """What was kept of a step of the work, to the last bit.

    Args:
        folder: A folder that `claim` has made.
        key: The file's name.
        device: Where the tensors go.

    Returns:
        The parameters, the other tensors by name, and what was noted; `None` where nothing was
        kept.
    """
    path = folder / f"{key}.safetensors"
    if not path.is_file():
        return None
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    biases: dict[str, torch.Tensor] = {}
    others: dict[str, torch.Tensor] = {}
    with safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            kind, _, rest = name.partition(":")
            value = file.get_tensor(name)
            if kind == "tensor":
                owner, _, part = rest.rpartition(":")
                tensors.setdefault(owner, {})[part] = value.to(device)
            elif kind == "bias":
                biases[rest] = value.to(device)
            else:
                others[rest] = value
        metadata = json.loads(file.metadata()[KEY])
    sqnr = metadata["sqnr_db"]
    found = {
        owner: TensorQParams(
            parts["scale"], parts["zero_point"], parts.get("integers"), sqnr.get(owner)
        )
        for owner, parts in tensors.items()
    }
    note: dict[str, Any] = metadata["note"]
    return QuantParams(found, biases), others, note


def keep(
    folder: Path,
    key: str,
    params: QuantParams,
    note: dict[str, Any],
    others: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write what was found of some tensors, whole or not at all.

    Args:
        folder: A folder that `claim` has made.
        key: The file's name.
        params: Parameters and biases that were found.
        note: Plain data.
        others: Other tensors by their names, such as the state of a random generator.
    """
    tensors: dict[str, torch.Tensor] = {}
    for owner, found in params.tensors.items():
        parts = {"scale": found.scale, "zero_point": found.zero_point, "integers": found.integers}
        for part, value in parts.items():
            if value is not None:
                tensors[f"tensor:{owner}:{part}"] = _plain(value)
    tensors |= {f"bias:{name}": _plain(value) for name, value in params.biases.items()}
    tensors |= {f"other:{name}": _plain(value) for name, value in (others or {}).items()}
    sqnr = {owner: found.sqnr_db for owner, found in params.tensors.items()}
    metadata = {KEY: json.dumps({"note": note, "sqnr_db": sqnr})}
    with files.atomic(folder / f"{key}.safetensors") as unfinished:
        save_file(tensors, str(unfinished), metadata=metadata)


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous().clone()


def work_of(float_model: FloatModel, recipe: Recipe, args: tuple[Any, ...]) -> dict[str, Any]:
    """What unfinished work must have in common with what goes on with it, as plain data.

    Args:
        float_model: The model.
        recipe: What is done.
        args: The arguments of the first batch.
    """
    weights = "".join(f"{name} {value}\n" for name, value in float_model.fingerprints.items())
    leaves = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    images = b"".join(leaf.detach().cpu().contiguous().numpy().tobytes() for leaf in leaves)
    return {
        "version": __version__,
        **recipe.as_dict(),
        "model": hashlib.sha256(weights.encode()).hexdigest()[:16],
        "first batch": hashlib.sha256(images).hexdigest()[:16],
    }
