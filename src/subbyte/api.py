"""The functions behind `import subbyte`: quantize, export, save, load, layers."""

from __future__ import annotations

import hashlib
import inspect
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn
from torch.utils import _pytree as pytree

from subbyte import methods
from subbyte.calibration.observe import rows, sqnr_db
from subbyte.data.batches import ArgumentsOf, check_calibration, read_batch, to_device
from subbyte.detectors import regions_of, training_loss
from subbyte.errors import SubbyteError
from subbyte.graph.equalize import equalize
from subbyte.graph.fingerprint import fingerprints
from subbyte.graph.flow import WHOLE
from subbyte.graph.regions import capture_regions
from subbyte.methods.common.resume import claim
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.placement.insert import annotate, check_overrides
from subbyte.placement.simulation import Captured, QuantizedTensor
from subbyte.recipe import Recipe
from subbyte.targets.onnx import export as onnx_runtime
from subbyte.tasks.metrics import classification
from subbyte.utils.allocator import keeping_memory
from subbyte.utils.progress import Progress, Silent
from subbyte.version import __version__


def quantize(
    model: nn.Module,
    calibration: Any,
    recipe: Recipe | None = None,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Captured:
    """Quantize a model: a new module, called as the model was; `model` is left as it is.

    `calibration`: an iterable of batches that can be walked again (a list, a `DataLoader`). A batch
    is a tensor, a list of images, a tuple of positional arguments, a mapping {"inputs": …,
    "targets": …}, or a pair (inputs, targets). `recipe`: what to do; `None` is `Recipe()`.
    The same model, batches and recipe give the same result (its `seed`; one thread count).
    `resume`: a folder to which methods that learn write each finished block; called again with the
    same arguments after it was interrupted, it goes on from there, to the same result.

    Raises:
        SubbyteError: The model cannot be captured, the calibration cannot be used, or an override
            matches no layer; or `resume` holds other work. One sentence says what would be right.
    """
    started = time.perf_counter()
    recipe = recipe or Recipe()
    progress = progress or Silent()
    _check_module(model)
    batches = ArgumentsOf(check_calibration(calibration), device_of(model))
    name, options = _method(recipe)
    with progress.working("capturing the model"):
        first = next(iter(batches))
        captured = prepare(model, first, recipe)
    if resume is not None:
        claim(resume, _work(captured, first))
    whole = captured.region_names == WHOLE
    loss = classification.loss if whole else training_loss(captured, model)
    with torch.random.fork_rng(), keeping_memory():
        torch.manual_seed(recipe.seed)
        methods.method(name).apply(
            captured, batches, options, loss=loss, progress=progress, resume=resume
        )
    captured.facts.seconds = time.perf_counter() - started
    captured.facts.metadata["method"] = name
    return captured


def prepare(model: nn.Module, args: tuple[Any, ...], recipe: Recipe) -> Captured:
    """Capture a model and put the recipe's quantizers into its copy, none of them calibrated.

    `args`: the positional arguments of one batch.
    """
    _check_module(model)
    check_recipe(recipe)
    regions = regions_of(model) if recipe.regions is None else recipe.regions
    parts = capture_regions(model, args, regions)
    captured = Captured(parts.model, parts.regions, recipe, parts.flow)
    captured.signature = inspect.signature(model.forward)
    captured.facts.fingerprints = captured.facts.prepared = fingerprints(captured)
    if recipe.equalize:
        for region in captured.region_names:
            equalize(captured.region(region))
        captured.facts.prepared = fingerprints(captured)
    annotate(captured)
    check_overrides(recipe, [layer.name for layer in captured.layers])
    captured.facts.example = pytree.tree_map(_shape_only, args)
    captured.facts.metadata = {
        "version": __version__,
        "recipe": recipe.as_dict(),
    }
    captured.to(device_of(captured))  # the quantizers join the model where it lies
    return captured.requires_grad_(False)


def export(
    quantized: nn.Module,
    path: str | Path,
    example: Any,
    *,
    target: str | None = None,
    postprocess: bool = True,
) -> None:
    """Write a quantized model as ONNX with Q/DQ nodes; any batch size runs afterwards.

    `example`: a batch's inputs (a tensor, or a tuple of positional arguments). `target`: the
    runtime that the file is for, "onnxruntime" or "openvino", where it runs fastest; `None`: one
    for both. `postprocess`: a detector is written with the whole way from images [N, 3, H, W] in
    [0, 1] to `boxes` [N, K, 4], `scores`, `labels` [N, K] and `count` [N], for images of the
    example's height and width, which are resized in the file if they are of another size than the
    model's; without it, from the images to the raw outputs. The file's metadata carries the recipe,
    the version and, where they are known, preprocessing and class names.

    Raises:
        SubbyteError: `quantized` is not from `quantize` or `load`, there is no such target, or
            `path` cannot be written.
    """
    captured = _captured(quantized)
    args = to_device(read_batch(example).args, device_of(captured))
    given, expected = _shapes(args), _shapes(captured.facts.example)
    if captured.region_names == WHOLE and given != expected:
        raise SubbyteError(
            f"the example has the shape {given} behind the batch, and the model was captured with "
            f"{expected}: give a batch like those of the calibration"
        )
    onnx_runtime.export(captured, Path(path), args, target, postprocess)


def layers(quantized: nn.Module) -> list[dict[str, Any]]:
    """One dictionary a quantized tensor, in the order of the graph.

    layer: qualified name of the layer. role: "weight" or "activation". bits, symmetric. scale: a
    float, or a list with one a channel; zero_point likewise. sqnr_db: signal to quantization noise,
    of a weight as it is, of an activation over the calibration images (`None`: no noise at all).
    readers: the layers that read it.
    """
    captured = _captured(quantized)
    return [_row(captured, tensor, q) for tensor, q in captured.quantizers()]


def _shapes(args: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The shapes of the tensors in `args` without their first dimension."""
    leaves = pytree.tree_leaves(args)
    return [tuple(leaf.shape[1:]) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def check_recipe(recipe: Recipe) -> None:
    """Raise `SubbyteError` for what a recipe asks and this version does not have."""
    _method(recipe)


def _method(recipe: Recipe) -> tuple[str, BaseModel]:
    """Name and options of the method that a recipe asks for; `SubbyteError` if it has no such."""
    method = methods.resolve(recipe)
    return method.name, methods.method(method.name).Options(**method.options)


def _work(captured: Captured, args: tuple[Any, ...]) -> dict[str, Any]:
    """What unfinished work must have in common with what goes on with it."""
    weights = "".join(f"{name} {value}\n" for name, value in captured.facts.fingerprints.items())
    leaves = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    images = b"".join(leaf.detach().cpu().contiguous().numpy().tobytes() for leaf in leaves)
    return {
        "version": __version__,
        **captured.recipe.as_dict(),
        "model": hashlib.sha256(weights.encode()).hexdigest()[:16],
        "first batch": hashlib.sha256(images).hexdigest()[:16],
    }


def _row(captured: Captured, tensor: QuantizedTensor, quantizer: FakeQuantize) -> dict[str, Any]:
    single = quantizer.spec.axis is None
    scale, zero_point = quantizer.scale.tolist(), quantizer.zero_point.tolist()
    return {
        "layer": tensor.layer,
        "role": tensor.role,
        "bits": quantizer.spec.bits,
        "symmetric": quantizer.spec.symmetric,
        "per_channel": not single,
        "scale": scale[0] if single else scale,
        "zero_point": zero_point[0] if single else zero_point,
        "sqnr_db": _sqnr(captured, tensor, quantizer),
        "readers": list(tensor.readers),
    }


def _sqnr(captured: Captured, tensor: QuantizedTensor, quantizer: FakeQuantize) -> float | None:
    value = quantizer.sqnr_db
    if tensor.role == "weight":
        weight = rows(captured.weight(tensor).detach(), None).double()
        noise = rows(quantizer.quantize(captured.weight(tensor)).detach(), None).double() - weight
        value = sqnr_db(float(weight.square().sum()), float(noise.square().sum()))
    return None if value is None or value == float("inf") else value


def _captured(quantized: nn.Module) -> Captured:
    if not isinstance(quantized, Captured):
        raise SubbyteError(
            f"{type(quantized).__name__} is not a quantized model: give what subbyte.quantize or "
            "subbyte.load returned"
        )
    return quantized


def _check_module(model: object) -> None:
    if isinstance(model, Captured):
        raise SubbyteError("the model is quantized already: give the float model it was made from")
    if not isinstance(model, nn.Module):
        raise SubbyteError(f"the model is a {type(model).__name__}: give a torch.nn.Module")


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first tensor lies; the CPU for a model without any."""
    for tensor in [*model.parameters(), *model.buffers()]:
        return tensor.device
    return torch.device("cpu")


def _shape_only(leaf: Any) -> Any:
    """A tensor that has a shape and a type and no memory."""
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, torch.Tensor) else leaf
