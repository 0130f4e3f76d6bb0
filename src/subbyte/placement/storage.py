"""A quantized model as a file: its grids, its rounding, its recipe, and what a method changed.

A safetensors file. Tensors: `grid.LAYER.ROLE.scale`, `.zero_point` and, where a method has chosen
the rounding, `.offset`; `changed.NAME` for each of the model's own tensors that a method altered.
Metadata `subbyte`: JSON with version, recipe, the example's shapes and the fingerprints of the
float weights, by which `load` knows that it was given the same model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from subbyte.api import device_of, prepare
from subbyte.data.batches import to_device
from subbyte.errors import SubbyteError
from subbyte.graph.fingerprint import fingerprints, float_tensors
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured, QuantizedTensor
from subbyte.recipe import Recipe
from subbyte.utils.files import atomic

KEY = "subbyte"


def save(quantized: nn.Module, path: str | Path) -> None:
    """Write the grids, rounding and recipe of a quantized model to a safetensors file.

    The float weights are not in it: `load` takes them from the model.

    Raises:
        SubbyteError: `quantized` is not from `quantize` or `load`, or `path` cannot be written.
    """
    if not isinstance(quantized, Captured):
        raise SubbyteError(
            f"{type(quantized).__name__} is not a quantized model: give what subbyte.quantize or "
            "subbyte.load returned"
        )
    tensors: dict[str, torch.Tensor] = {}
    quality: dict[str, float | None] = {}
    for tensor, quantizer in quantized.quantizers():
        for name, value in quantizer.state_dict().items():
            tensors[f"{_key(tensor)}.{name}"] = value.cpu().contiguous().clone()
        quality[_key(tensor)] = quantizer.sqnr_db
    before, now = quantized.facts.prepared, fingerprints(quantized)
    for name, value in float_tensors(quantized).items():
        if before.get(name) != now[name]:
            tensors[f"changed.{name}"] = value.cpu().contiguous().clone()
    facts = {
        "metadata": quantized.facts.metadata,
        "example": _encode(quantized.facts.example),
        "fingerprints": quantized.facts.fingerprints,
        "sqnr_db": quality,
    }
    with atomic(Path(path)) as part:
        save_file(tensors, str(part), metadata={KEY: json.dumps(facts)})


def load(model: nn.Module, path: str | Path) -> Captured:
    """The quantized model that was saved in `path`, on a copy of `model`, its float model.

    Raises:
        SubbyteError: `path` is missing or no such file, or `model` is not the one it was made from.
    """
    if not isinstance(model, nn.Module):
        raise SubbyteError(f"the model is a {type(model).__name__}: give a torch.nn.Module")
    facts, tensors = _read(Path(path))
    recipe = Recipe(**facts["metadata"]["recipe"])
    captured = prepare(model, to_device(_decode(facts["example"]), device_of(model)), recipe)
    _check_same(captured, facts["fingerprints"], Path(path))
    for tensor, quantizer in captured.quantizers():
        state = {
            name.removeprefix(f"{_key(tensor)}."): value
            for name, value in tensors.items()
            if name.rpartition(".")[0] == _key(tensor)
        }
        if not state.keys() >= {"scale", "zero_point"}:
            raise SubbyteError(
                f"{path} has no grid for the {tensor.role} of layer '{tensor.layer}': save the "
                "model again with this version"
            )
        quantizer.scale.copy_(state["scale"])
        quantizer.zero_point.copy_(state["zero_point"])
        quantizer.offset = state.get("offset")
        quantizer.sqnr_db = facts["sqnr_db"].get(_key(tensor))
    own = float_tensors(captured)
    for name, value in tensors.items():
        if name.startswith("changed."):
            own[name.removeprefix("changed.")].copy_(value)
    captured.facts.metadata = facts["metadata"]
    captured.set_state(State.QUANTIZE)
    return captured


def read_facts(path: Path) -> dict[str, Any]:
    """The metadata of a saved model: version, recipe, preprocessing, class names, as known."""
    metadata: dict[str, Any] = _read(path)[0]["metadata"]
    return metadata


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise SubbyteError(f"there is no file {path}: name one that subbyte.save has written")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SubbyteError(f"{path} is no whole safetensors file: {error}") from error
    if KEY not in metadata:
        raise SubbyteError(
            f"{path} holds no quantized model: name one that subbyte.save has written"
        )
    return json.loads(metadata[KEY]), tensors


def _check_same(captured: Captured, saved: dict[str, str], path: Path) -> None:
    here = captured.facts.fingerprints
    different = [name for name in {**saved, **here} if saved.get(name) != here.get(name)]
    if different:
        raise SubbyteError(
            f"{path} was made from another model: {len(different)} tensors differ, the first is "
            f"'{different[0]}'; give the float model with the weights it was quantized from"
        )


def _key(tensor: QuantizedTensor) -> str:
    return f"grid.{tensor.layer}.{tensor.role}"


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
