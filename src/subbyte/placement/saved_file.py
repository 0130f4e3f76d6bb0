"""A quantized model as a file: parameters, recipe, and by what its float model is known again.

A safetensors file. Tensors: `grid.LAYER.ROLE.scale`, `.zero_point`, of a weight `.integers`, and
`bias.NAME` for each bias that differs from the float model's; `channels.SITE` where channels were
divided to have like ranges. Metadata `subbyte`: JSON with
version, recipe, the example's shapes and the fingerprints of the float weights, by which `load`
knows that it was given the same model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from subbyte.errors import SubbyteError
from subbyte.numerics.qparams import QuantParams, TensorQParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation
from subbyte.utils.files import atomic

KEY = "subbyte"
FACTORS = "channels."
FORMAT = 2  # 1 held roundings as offsets from float weights


@dataclass(frozen=True, eq=False)
class SavedModel:
    """What a file holds.

    Attributes:
        path: The file.
        metadata: The keys of the ONNX metadata, without `subbyte.`.
        example: Arguments of a batch, zeros of the right shapes and types.
        fingerprints: Name → hash of each float tensor.
        sqnr_db: Key → that of an activation.
        tensors: Everything else.
    """

    path: Path
    metadata: dict[str, Any]
    example: tuple[Any, ...]
    fingerprints: dict[str, str]
    sqnr_db: dict[str, float | None]
    tensors: dict[str, torch.Tensor]


def write(simulation: Simulation, path: Path) -> None:
    """Write a simulation's parameters and all that belongs to them, whole or not at all.

    Raises:
        SubbyteError: `path` cannot be written.
    """
    params = simulation.params
    tensors: dict[str, torch.Tensor] = {}
    for key, found in params.tensors.items():
        tensors[f"grid.{key}.scale"] = _plain(found.scale)
        tensors[f"grid.{key}.zero_point"] = _plain(found.zero_point)
        if found.integers is not None:
            tensors[f"grid.{key}.integers"] = _plain(found.integers)
    for name, value in params.biases.items():
        tensors[f"bias.{name}"] = _plain(value)
    for key, value in simulation.float_model.factors.items():
        tensors[f"{FACTORS}{key}"] = _plain(value)
    about = {
        "format": FORMAT,
        "metadata": simulation.metadata,
        "example": _encode(tuple(simulation.example)),
        "fingerprints": dict(simulation.float_model.fingerprints),
        "sqnr_db": {f"grid.{key}": found.sqnr_db for key, found in params.tensors.items()},
    }
    with atomic(path) as part:
        save_file(tensors, str(part), metadata={KEY: json.dumps(about)})


def read(path: Path) -> SavedModel:
    """What `write` has written.

    Raises:
        SubbyteError: `path` is missing, is not such a file, or is of an earlier version.
    """
    if not path.is_file():
        raise SubbyteError(f"there is no file {path}: name one that subbyte.save has written")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SubbyteError(f"{path} is not a whole safetensors file: {error}") from error
    if KEY not in metadata:
        raise SubbyteError(
            f"{path} holds no quantized model: name one that subbyte.save has written"
        )
    about = json.loads(metadata[KEY])
    if about.get("format") != FORMAT:
        raise SubbyteError(
            f"{path} was saved by another version of subbyte: quantize the model again"
        )
    return SavedModel(
        path,
        about["metadata"],
        tuple(_decode(about["example"])),
        about["fingerprints"],
        {key.removeprefix("grid."): value for key, value in about["sqnr_db"].items()},
        tensors,
    )


@contextmanager
def of_same(saved: SavedModel) -> Iterator[None]:
    """What cannot be captured with a file's example is another model than the file's."""
    try:
        yield
    except SubbyteError as error:
        reason = str(error).partition("; give batches")[0]
        raise SubbyteError(
            f"{saved.path} was made from another model, or with images of another size, for "
            f"{reason}; give the float model that was quantized"
        ) from error


def check_same(saved: SavedModel, fingerprints: Mapping[str, str]) -> None:
    """Raise `SubbyteError` if a model is not the one that a file was made from."""
    names = {**saved.fingerprints, **fingerprints}
    different = [n for n in names if saved.fingerprints.get(n) != fingerprints.get(n)]
    if different:
        raise SubbyteError(
            f"{saved.path} was made from another model: {len(different)} tensors differ, the first "
            f"is '{different[0]}'; give the float model with the weights it was quantized from"
        )


def factors_of(saved: SavedModel) -> dict[str, torch.Tensor]:
    """By what channels were divided to have like ranges, as `graph.balance` says."""
    names = [name for name in saved.tensors if name.startswith(FACTORS)]
    return {name.removeprefix(FACTORS): saved.tensors[name] for name in names}


def params_of(saved: SavedModel, placement: Placement) -> QuantParams:
    """The parameters in a file, for the placement of its recipe.

    Raises:
        SubbyteError: A tensor is missing.
    """
    found = {}
    for tensor in placement.tensors:
        names = ("scale", "zero_point", *(["integers"] if tensor.role == "weight" else []))
        values = [saved.tensors.get(f"grid.{tensor.key}.{name}") for name in names]
        if any(value is None for value in values):
            raise SubbyteError(
                f"{saved.path} has no parameters for the {tensor.role} of layer '{tensor.layer}': "
                "quantize the model again with this version"
            )
        scale, zero_point, *integers = (value for value in values if value is not None)
        found[tensor.key] = TensorQParams(
            scale, zero_point, integers[0] if integers else None, saved.sqnr_db.get(tensor.key)
        )
    biases = {
        name.removeprefix("bias."): value
        for name, value in saved.tensors.items()
        if name.startswith("bias.")
    }
    return QuantParams(found, biases)


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous().clone()


def _encode(value: Any) -> Any:
    """The shapes of a batch's arguments as JSON."""
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(part) for part in value]}
    if isinstance(value, dict):
        return {"dict": {key: _encode(part) for key, part in value.items()}}
    return {"value": value}


def _decode(value: Any) -> Any:
    if "shape" in value:
        return torch.zeros(value["shape"], dtype=getattr(torch, value["dtype"]))
    if "dict" in value:
        return {key: _decode(part) for key, part in value["dict"].items()}
    if "value" in value:
        return value["value"]
    parts = [_decode(part) for part in next(iter(value.values()))]
    return tuple(parts) if "tuple" in value else parts
