"""The functions behind `import subbyte`: quantize, export, save, load, layers."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from subbyte import methods
from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.calibration.channels import with_like_channels
from subbyte.calibration.layer_table import layer_table
from subbyte.data.batches import ArgumentsOf, check_calibration, read_batch, to_device
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors import one_size, output_loss, regions_of, training_loss, try_out
from subbyte.detectors.raw_outputs import RawDetector, of_sentence, raw_detector
from subbyte.errors import SubbyteError
from subbyte.graph.balance import balanced
from subbyte.graph.capture.model import capture_model
from subbyte.graph.equalize import equalized
from subbyte.graph.float_model import FloatModel, device_of
from subbyte.graph.flow import WHOLE
from subbyte.methods.common.context import Context, LabelLoss
from subbyte.methods.common.label_loss import label_loss
from subbyte.methods.common.resume import claim, work_of
from subbyte.models.onnx.model import is_onnx
from subbyte.numerics.qparams import QuantParams
from subbyte.placement import saved_file
from subbyte.placement.example import check_like_example
from subbyte.placement.file_metadata import described
from subbyte.placement.place import check_overrides, place
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Recipe, recipe_of
from subbyte.targets.placing import fitted, placed
from subbyte.utils.allocator import keeping_memory
from subbyte.utils.arguments import Arguments, image_lists
from subbyte.utils.observer import Observer, Unobserved
from subbyte.utils.progress import Progress, Silent
from subbyte.version import __version__


def quantize(
    model: nn.Module | str | Path,
    calibration: Any,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
    outputs: Outputs | None = None,
    preprocessing: Preprocessing | None = None,
    observer: Observer | None = None,
) -> Simulation:
    """Quantize a model: a new module, called as the model was; `model` is left as it is.

    The same model, batches and recipe give the same result (its `seed`; one thread count).

    With `outputs`, a detector's raw network becomes a detector as torchvision's are: the result
    takes images [3, H, W], RGB in [0, 1], a list or a tensor of them, and gives a dictionary of
    boxes, scores and labels (from 1) for each; so do the batches, and files have boxes.

    Args:
        model: Any module that `torch.export` can capture, or a detector with regions that it can;
            or the path of an ONNX file in float.
        calibration: An iterable of batches that can be walked again (a list, a `DataLoader`). A
            batch is a tensor, a list of images, a tuple of positional arguments, a mapping
            {"inputs": …, "targets": …}, or a pair (inputs, targets).
        recipe: What to do, or its fields; `None` is `Recipe()`.
        progress: Shows how far the work is.
        resume: A folder to which methods that learn write each finished block; called again with
            the same arguments after it was interrupted, it goes on from there, to the same result.
        outputs: What a detector's raw network gives.
        preprocessing: With `outputs`: how images become the network's input; `None`: they are it.
        observer: Takes the losses of methods that learn, step by step.

    Raises:
        SubbyteError: The model cannot be captured, or its file not be read, the calibration cannot
            be used, or an override matches no layer; `resume` holds other work; or what the network
            gives is not what `outputs` says.
    """
    started = time.perf_counter()
    recipe, progress = recipe_of(recipe), progress or Silent()
    check_recipe(recipe)
    model = module_of(model)
    batches = ArgumentsOf(check_calibration(calibration), device_of(model))
    if outputs is not None:
        model = raw_detector(model, outputs, preprocessing)
        try_out(model, *next(iter(batches)))
    elif preprocessing is not None:
        raise SubbyteError("preprocessing is that of a raw network: give its outputs as well")
    with progress.working("capturing the model"):
        float_model = capture(model, next(iter(batches)), recipe.regions)
    simulation = quantize_captured(
        float_model,
        batches,
        recipe,
        progress=progress,
        resume=resume,
        started=started,
        observer=observer,
    )
    if isinstance(model, RawDetector):
        simulation.metadata |= {"detector": model.sentence()}
    return simulation


def capture(
    model: nn.Module, args: tuple[Any, ...], regions: tuple[str, ...] | None = None
) -> FloatModel:
    """Capture a model, once for any number of recipes.

    Args:
        model: The user's model; it is left as it is.
        args: The positional arguments of one batch.
        regions: Submodules to capture; `None`: those that the model names, those of a known
            detector, the whole model, or what can be captured of it.

    Raises:
        SubbyteError: It cannot be captured.
    """
    model = module_of(model)
    regions = regions_of(model) if regions is None else regions
    float_model = capture_model(model, args, regions)
    loss = output_loss(model, float_model.region_names)
    return float_model if loss is None else replace(float_model, output_loss=loss)


def quantize_captured(
    float_model: FloatModel,
    batches: ArgumentsOf,
    recipe: Recipe,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
    started: float | None = None,
    observer: Observer | None = None,
) -> Simulation:
    """Quantize a model that has been captured; the float model is left as it is.

    Args:
        float_model: The model, captured with the recipe's regions.
        batches: The calibration images, on the model's device.
        recipe: What to do.
        progress: Shows how far the work is.
        resume: As of `quantize`.
        started: When the work began, by `time.perf_counter`; `None`: now.
        observer: As of `quantize`.

    Raises:
        SubbyteError: As of `quantize`.
    """
    started = time.perf_counter() if started is None else started
    progress = progress or Silent()
    fit = fitted(recipe)
    recipe = fit.recipe
    batches = replace(
        batches,
        float32=batches.float32 or float_model.output_types is not None,
        images=image_lists(float_model.example),
        change=one_size(float_model.original),
    )
    name, options = _method(recipe, float_model.output_loss.of_objects)
    check_overrides(recipe, float_model)  # before images run
    captured = float_model
    float_model = prepared(float_model, batches, recipe, progress)
    placement = placed(float_model, recipe)
    if resume is not None:
        claim(resume, work_of(captured, recipe, next(iter(batches))))
    loss, observer = _label_loss(float_model), observer or Unobserved()
    context = Context(recipe.seed, progress, loss, resume, observer)
    with torch.random.fork_rng(), keeping_memory():
        torch.manual_seed(recipe.seed)
        method = methods.method(name)
        plain = placement.with_plain_sums()
        params = method.quantize(float_model, plain, batches, options, context)
        params = with_room_for_biases(float_model, placement, params)
    seconds = time.perf_counter() - started
    notes = {"target": fit.notes} if fit.notes else {}
    simulation = simulate(float_model, placement, params.with_reported(seconds=seconds, **notes))
    simulation.metadata = _metadata(recipe) | {"method": name}
    simulation.output_types = float_model.output_types
    return simulation


def prepared(
    float_model: FloatModel, batches: ArgumentsOf, recipe: Recipe, progress: Progress
) -> FloatModel:
    """The model with its channels equalized or balanced, as a recipe asks for.

    Args:
        float_model: The model, which stays as it is.
        batches: The calibration images.
        recipe: What is asked for.
        progress: Shows how far it is.
    """
    if recipe.equalize:
        return equalized(float_model)
    if recipe.balance and recipe.per_channel and recipe.activations is not None:
        return with_like_channels(float_model, batches, progress)
    return float_model


def unquantized(float_model: FloatModel) -> Simulation:
    """The simulation of a recipe that leaves everything in float."""
    recipe = Recipe(weights=None, activations=None, first_last=None)
    simulation = simulate(float_model, place(float_model, recipe), QuantParams())
    simulation.metadata = _metadata(recipe)
    return simulation


def export(
    quantized: nn.Module,
    path: str | Path,
    example: Any,
    *,
    target: str | None = None,
    postprocess: bool = True,
    classes: Sequence[str] | None = None,
    preprocessing: Any = None,
) -> tuple[str, ...]:
    """Write a quantized model as ONNX with Q/DQ nodes; any batch size runs afterwards.

    The file's metadata carries the recipe, the version and, where they are known, preprocessing and
    class names, with which `subbyte predict` and `subbyte evaluate` take it. The model is left as
    it is.

    Args:
        quantized: What `quantize` or `load` returned.
        path: The file to write.
        example: A batch's inputs (a tensor, or a tuple of positional arguments), of the height and
            width of the calibration's.
        target: What the file is for: a runtime, "onnxruntime" or "openvino", where it runs
            fastest, or another of the `targets`, with files of its own; `None`: the target of the
            recipe, or else one for both runtimes.
        postprocess: Write a detector with the whole way from images [N, 3, H, W] in [0, 1] to
            `boxes` [N, K, 4], `scores`, `labels` [N, K] and `count` [N], for images of the
            example's height and width, which are resized in the file if they are of another size
            than the model's; else from the images to the raw outputs.
        classes: Names in the order of the outputs, of a detector from label 1 on.
        preprocessing: Of a classifier: how an image is prepared, a mapping with the keys of
            `data.preprocessing` or torchvision's `weights.transforms()`. Detectors need none.

    Returns:
        What the file does not have, as sentences.

    Raises:
        SubbyteError: `quantized` is not from `quantize` or `load`, there is no such target, classes
            or preprocessing do not fit the model, or `path` cannot be written.
    """
    from subbyte.targets import files  # onnx takes a while to import

    simulation = _simulation(quantized)
    narrow = [found for found in simulation.placement.sums if found.bits < 32]
    if narrow:
        raise SubbyteError(
            f"the sums of '{narrow[0].layer}' have {narrow[0].bits} bits, and no runtime has such "
            "an accumulator: quantize without accumulator to write a file"
        )
    args = to_device(read_batch(example).args, device_of(simulation))
    args, _ = simulation.float_model.arguments(args, {})
    args = Arguments(args, image_lists(simulation.example))
    check_like_example(simulation, args, "the example")
    written = copy.copy(simulation)  # the model itself keeps its own metadata
    written.metadata = described(simulation, args, classes, preprocessing)
    return files.export(written, Path(path), args, target, postprocess)


def save(quantized: nn.Module, path: str | Path) -> None:
    """Write the parameters and the recipe of a quantized model to a safetensors file.

    The float weights are not in it: `load` takes them from the model.

    Raises:
        SubbyteError: `quantized` is not from `quantize` or `load`, or `path` cannot be written.
    """
    saved_file.write(_simulation(quantized), Path(path))


def load(model: nn.Module | str | Path, path: str | Path) -> Simulation:
    """The quantized model that was saved in `path`, of `model`, its float model or ONNX file.

    Raises:
        SubbyteError: `path` is missing, is not such a file, or is of an earlier version, or `model`
            is not the one it was made from.
    """
    saved, model = saved_file.read(Path(path)), module_of(model)
    recipe = Recipe(**saved.metadata["recipe"])
    sentence = saved.metadata.get("detector")
    if sentence is not None and not isinstance(model, RawDetector):
        model = of_sentence(model, sentence)
    with saved_file.of_same(saved):
        float_model = capture(model, to_device(saved.example, device_of(model)), recipe.regions)
    saved_file.check_same(saved, float_model.fingerprints)
    float_model = equalized(float_model) if recipe.equalize else float_model
    float_model = balanced(float_model, saved_file.factors_of(saved))
    placement = placed(float_model, recipe)
    simulation = simulate(float_model, placement, saved_file.params_of(saved, placement))
    simulation.metadata = saved.metadata
    simulation.output_types = float_model.output_types
    return simulation


def layers(quantized: nn.Module) -> list[dict[str, Any]]:
    """One dictionary for each quantized tensor, in the order of the graph.

    Its keys are `layer`, the layer's qualified name; `role`, "weight" or "activation"; `bits`;
    `symmetric`; `per_channel`; `scale`, a float, or a list with one a channel; `zero_point`
    likewise; `sqnr_db`, the signal to quantization noise, of a weight as it is, of an activation
    over the calibration images (`None` without any noise); and `readers`, the layers that read it.
    `sqnr_db` says how well a tensor's own values are rounded. What the model loses by it is another
    question, which `subbyte.diagnose` answers.
    """
    return layer_table(_simulation(quantized))


def check_recipe(recipe: Recipe) -> None:
    """Raise `SubbyteError` for what a recipe asks and this version or its target does not have."""
    _method(recipe)
    fitted(recipe)


def _label_loss(float_model: FloatModel) -> LabelLoss | None:
    """How wrong outputs are by labels, of a classifier and of detectors that know it."""
    if float_model.region_names == WHOLE:
        return label_loss
    return training_loss(float_model, float_model.original)


def _metadata(recipe: Recipe) -> dict[str, Any]:
    return {"version": __version__, "recipe": recipe.as_dict()}


def _method(recipe: Recipe, detector: bool = False) -> tuple[str, BaseModel]:
    """Name and options of the method that a recipe asks for; `SubbyteError` if it has no such."""
    method = methods.resolve(recipe, detector=detector)
    return method.name, methods.method(method.name).Options(**method.options)


def _simulation(quantized: nn.Module) -> Simulation:
    if not isinstance(quantized, Simulation):
        raise SubbyteError(
            f"{type(quantized).__name__} is not a quantized model: give what subbyte.quantize or "
            "subbyte.load returned"
        )
    return quantized


def module_of(model: object) -> nn.Module:
    """The user's module, or that of an ONNX file."""
    if isinstance(model, str | Path) and is_onnx(model):
        from subbyte.models.onnx.load import load_onnx  # onnx takes a while to import

        return load_onnx(model)
    if isinstance(model, Simulation):
        raise SubbyteError("the model is quantized already: give the float model it was made from")
    if isinstance(model, torch.jit.ScriptModule):
        raise SubbyteError(
            "the model is TorchScript, which cannot be captured: give the torch.nn.Module that it "
            "was scripted or traced from, with its weights (module.load_state_dict(script."
            "state_dict()))"
        )
    if isinstance(model, nn.Module):
        for name, part in model.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                raise SubbyteError(
                    f"the model's '{name}' is TorchScript, which cannot be captured: put the "
                    "torch.nn.Module there that it was scripted or traced from"
                )
    if not isinstance(model, nn.Module):
        raise SubbyteError(
            f"the model is a {type(model).__name__}: give a torch.nn.Module, or the path of an "
            ".onnx file"
        )
    return model
