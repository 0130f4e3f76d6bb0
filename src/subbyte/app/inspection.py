"""What `subbyte inspect` finds out: a model's inputs and outputs, its layers and regions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte import api
from subbyte.app.loading import load_model
from subbyte.data.preprocessing import Preprocessing, as_pair, output_size
from subbyte.detection import Outputs
from subbyte.detectors.common.one_stage import size_of
from subbyte.detectors.raw.images import letterbox_of
from subbyte.detectors.raw.propose import proposed
from subbyte.detectors.raw_outputs import RawDetector
from subbyte.graph.float_model import qualified
from subbyte.models import ModelConfig, ModelSpec
from subbyte.models.onnx.module import OnnxModule

BATCH, SIDE = 2, 224


def inspect_model(
    config: ModelConfig, preprocessing: Preprocessing | None = None
) -> dict[str, Any]:
    """Run a model once and capture it.

    Args:
        config: The model.
        preprocessing: Of images: it says how large they are, and how those of a raw network with
            outputs become its input.

    Returns:
        Its `task`; `inputs` and `outputs` (of a raw network those of the network), each with
        `name`, `shape` (the batch is "N") and `dtype`; `regions`; `layers`, each with `name`,
        `operation`, `region` and, if it stays in float, `reason`; `outputs_are`, the keys of
        `model.outputs` of a model that brings them; and `proposed`, those by which what another raw
        network gave makes sense. Either is `None` where there are none.

    Raises:
        SubbyteError: The model cannot be loaded, run or captured.
    """
    spec = load_model(config, preprocessing)
    args = example_of(spec, preprocessing)
    captured = api.capture(spec.module, args)
    run: Any = spec.module
    if isinstance(run, RawDetector):  # its network alone, for the batch that this reads
        fitted = letterbox_of(run.preprocessing, {size_of(image) for image in args[0]})
        args, run = (run.normalization(fitted.images(args[0])),), run.network
    with torch.no_grad():
        outputs = run(*args)
    layers = [
        {"name": layer.name, "operation": layer.operation, "region": region, "reason": layer.reason}
        for region, found in captured.layers.items()
        for layer in found
    ]
    inputs: list[str] = list(captured.signature.parameters)
    names: tuple[str, ...] = ()
    if isinstance(spec.module, OnnxModule):
        inputs, names = list(spec.module.input_names), spec.module.output_names
    return {
        "model": spec.name,
        "task": spec.task,
        "inputs": _tensors(args, inputs),
        "outputs": _tensors(outputs, names),
        "regions": list(captured.region_names),
        "layers": layers,
        "proposed": _proposed(spec, args, outputs),
        "outputs_are": None if spec.outputs is None else _said(spec.outputs),
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `inspect_model` found, as text."""
    for side in ("inputs", "outputs"):
        for tensor in found[side]:
            shape = ", ".join(map(str, tensor["shape"]))
            yield f"{side[:-1]} {tensor['name']} [{shape}] {tensor['dtype']}"
    regions = [name or "the whole model" for name in found["regions"]]
    yield f"regions: {', '.join(regions)}"
    for layer in found["layers"]:
        reason = f", in float: {layer['reason']}" if layer["reason"] else ""
        name = qualified(layer["region"], layer["name"])  # as overrides take it
        yield f"layer {name} ({layer['operation']}){reason}"
    if found["outputs_are"] is not None:
        keys = ", ".join(
            f"{key}: {json.dumps(value)}" for key, value in found["outputs_are"].items()
        )
        yield f"model.outputs: {{{keys}}}"
    if found["proposed"] is not None:
        keys = ", ".join(f"{key}: {json.dumps(value)}" for key, value in found["proposed"].items())
        yield f"if it is a detector's raw network, try model.outputs: {{{keys}}}"


def _proposed(spec: ModelSpec, args: tuple[Any, ...], outputs: Any) -> dict[str, Any] | None:
    """What could be said of a raw network's outputs, from one batch of noise."""
    if spec.outputs is not None:  # nothing need be proposed
        return None
    if spec.task != "detection" or not isinstance(args[0], torch.Tensor) or args[0].dim() != 4:
        return None
    height, width = args[0].shape[-2:]
    sentence = proposed(outputs, (height, width))
    return None if sentence is None else _said(sentence)


def _said(outputs: Outputs) -> dict[str, Any]:
    return outputs.model_dump(mode="json", exclude_defaults=True)


def example_of(spec: ModelSpec, preprocessing: Preprocessing | None = None) -> tuple[Any, ...]:
    """Arguments of the size that a model asks for, or of that of its images, or of a usual one."""
    module, prepared = spec.module, preprocessing or spec.preprocessing or Preprocessing()
    size = output_size((SIDE, SIDE), prepared)
    if isinstance(module, OnnxModule):
        shapes = [shape or (None, 3, None, None) for shape in module.input_shapes]
        return tuple(torch.rand(_filled(shape, size)) for shape in shapes)
    if isinstance(module, RawDetector) and (own := size_of_input(module)) is not None:
        return (list(torch.rand(BATCH, 3, *own)),)
    images = torch.rand(BATCH, prepared.channels, *size)
    return (images,) if spec.task == "classification" else (list(images),)


def size_of_input(module: RawDetector) -> tuple[int, int] | None:
    """Height and width of a raw network's input, where they do not depend on the images."""
    prepared = module.preprocessing
    whole = prepared.letterbox or (prepared.resize if isinstance(prepared.resize, tuple) else None)
    if whole is not None:
        return as_pair(whole)
    if isinstance(module.network, OnnxModule) and len(module.network.input_shapes) == 1:
        height, width = (*(module.network.input_shapes[0] or ()), None, None, None, None)[2:4]
        return None if height is None or width is None else (height, width)
    return None


def _filled(shape: tuple[int | None, ...], size: tuple[int, int]) -> list[int]:
    """A shape whose free sizes have a value: of 4 dimensions images of this size."""
    rank = len(shape)
    usual = [BATCH, 3, *size] if rank == 4 else [BATCH, *[SIDE] * rank][:rank]
    behind = [other if n is None else n for n, other in zip(shape[1:], usual[1:], strict=True)]
    return [BATCH, *behind]


def _tensors(value: Any, names: Any) -> list[dict[str, Any]]:
    """Each tensor in a model's arguments or outputs, by its name or its place."""
    found = []
    for place, (path, leaf) in enumerate(pytree.tree_flatten_with_path(value)[0]):
        if isinstance(leaf, torch.Tensor):
            own = names[place] if place < len(names) else pytree.keystr(path) or "output"
            shape = ["N" if i == 0 and n == BATCH else n for i, n in enumerate(leaf.shape)]
            found.append(
                {"name": own, "shape": shape, "dtype": str(leaf.dtype).removeprefix("torch.")}
            )
    return found
