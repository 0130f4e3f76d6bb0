"""What a training run keeps in its folder: weights, what is needed to go on, and how it went.

`model.safetensors`: the weights once it is finished, named as the project's checkpoints; its
metadata `subbyte` has the model, its classes and the number of steps. `state.pt`: where a run that
is not finished stands. `log.jsonl`: a line an epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from subbyte.errors import SubbyteError
from subbyte.models.ssd import METADATA, SSD
from subbyte.training.config import Training
from subbyte.utils.files import atomic, write_text
from subbyte.version import __version__

MODEL, STATE, LOG, LAST_GOOD = "model.safetensors", "state.pt", "log.jsonl", "last_good.safetensors"

# What may differ where a run goes on: nothing that the weights depend on.
FREE = {"save_seconds", "workers", "device", "evaluate_every"}


@dataclass
class Position:
    """How far a run is.

    Attributes:
        step: Steps that are finished.
        sums: The sums of the losses since the epoch began.
        rows: Figures of each epoch.
        processes: How many the run is of.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 1


def save_state(
    out: Path, config: Training, model: SSD, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Write where a training stands, whole or not at all.

    Args:
        out: The training's folder.
        config: How it trains.
        model: The model.
        optimizer: The optimizer.
        position: Step, epoch and log.
    """
    content = {
        "config": _kept(config, position),
        "model": model.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": position.step,
        "sums": position.sums,
        "rows": json.dumps(position.rows),
    }
    with atomic(out / STATE) as part:
        torch.save(content, part)


def load_state(
    out: Path, config: Training, model: SSD, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Put what was saved into a model, an optimizer and a position.

    Args:
        out: The training's folder.
        config: How it trains.
        model: Gets its weights.
        optimizer: Gets its state.
        position: Gets step, epoch and log.

    Raises:
        SubbyteError: It does not fit.
    """
    content = _read(out / STATE)
    before, now = content["config"], _kept(config, position)
    for key in now:
        if before.get(key) != now[key]:
            raise SubbyteError(
                f"the run in {out} has {key} {before.get(key)}, and not {now[key]}: go on with the "
                "same configuration, or begin in another folder"
            )
    try:
        model.network.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError):
        raise SubbyteError(
            f"the run in {out} is of other classes than the data has: go on with the same data, "
            "or begin in another folder"
        ) from None
    position.step, position.sums = content["step"], content["sums"]
    position.rows = json.loads(content["rows"])


def save_model(path: Path, network: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        path: The file.
        network: Name → tensor.
        metadata: Goes into the file's metadata.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.items()}
    header = {"format": "pt", METADATA: json.dumps({"version": __version__, **metadata})}
    with atomic(path) as part:
        part.write_bytes(safetensors.torch.save(tensors, header))


def save_last_good(out: Path, metadata: dict[str, Any], *, write: bool) -> tuple[Path, int]:
    """Write the weights of the saved state.

    Args:
        out: The training's folder.
        metadata: Goes into the file's metadata.
        write: Whether this process writes.

    Returns:
        The file, and the number of steps behind its weights.
    """
    content = _read(out / STATE)
    step = int(content["step"])
    if write:
        save_model(out / LAST_GOOD, content["model"], {**metadata, "steps": step})
    return out / LAST_GOOD, step


def save_log(out: Path, position: Position) -> None:
    """Write a line for each finished epoch."""
    write_text(out / LOG, "".join(f"{json.dumps(row)}\n" for row in position.rows))


def read_log(out: Path) -> list[dict[str, Any]]:
    """The rows that `save_log` wrote; none where there is no such file."""
    file = out / LOG
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def parameters(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The optimizer's groups: weights of layers, and what has one dimension, without decay."""
    known = [value for value in model.parameters() if value.requires_grad]
    return [
        {"params": [value for value in known if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in known if value.ndim <= 1], "weight_decay": 0.0},
    ]


def _kept(config: Training, position: Position) -> dict[str, Any]:
    """What must be the same where a run goes on."""
    kept: dict[str, Any] = json.loads(config.model_dump_json(exclude=FREE))
    return {**kept, "processes": position.processes}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise SubbyteError(
            f"{path} is cut off, or not what training wrote ({type(error).__name__}): "
            "begin in another folder"
        ) from None
    return content
