"""What has been learned of each block, in files, so that a killed run goes on behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from subbyte.errors import SubbyteError
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.utils import files

KEY = "subbyte"


def claim(folder: Path, facts: dict[str, Any]) -> None:
    """Make `folder` the place of unfinished work described by `facts` (plain data).

    Raises:
        SubbyteError: The work in it is another one; what differs is named.
    """
    file = folder / "work.json"
    here = json.loads(json.dumps(facts))
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
    folder: Path, key: str, grids: list[FakeQuantize], others: dict[str, torch.Tensor] | None = None
) -> dict[str, Any] | None:
    """Give `grids` what was kept of them under `key`, and return what was noted; `None`: nothing.

    others: tensors that were kept too, by name. Values return to the last bit.
    """
    path = folder / f"{key}.safetensors"
    if not path.is_file():
        return None
    with safe_open(str(path), framework="pt") as file:
        for i, grid in enumerate(grids):
            grid.scale.copy_(file.get_tensor(f"{i}.scale"))
            grid.zero_point.copy_(file.get_tensor(f"{i}.zero_point"))
            name = f"{i}.offset"
            offset = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
            grid.offset = None if offset is None else offset.to(grid.scale.device)
        for name, tensor in (others or {}).items():
            tensor.copy_(file.get_tensor(name))
        note: dict[str, Any] = json.loads(file.metadata()[KEY])
    return note


def keep(
    folder: Path,
    key: str,
    grids: list[FakeQuantize],
    note: dict[str, Any],
    others: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write `grids`, a note (plain data) and other tensors by name, whole or not at all."""
    tensors = {
        f"{i}.{name}": value.cpu().contiguous().clone()
        for i, grid in enumerate(grids)
        for name, value in grid.state_dict().items()
    }
    tensors |= {name: value.detach().cpu().clone() for name, value in (others or {}).items()}
    with files.atomic(folder / f"{key}.safetensors") as part:
        save_file(tensors, str(part), metadata={KEY: json.dumps(note)})
