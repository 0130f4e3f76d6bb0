"""What a file says of the images that it takes and of its classes, so that it can be used alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError

from subbyte.data.preprocessing import OF_DETECTORS, Preprocessing, as_pair
from subbyte.detectors import is_whole, label_count, own_letterbox
from subbyte.detectors.common.one_stage import images_of, size_of
from subbyte.detectors.raw_outputs import RawDetector
from subbyte.errors import SubbyteError
from subbyte.graph.flow import WHOLE
from subbyte.placement.simulation import Simulation
from subbyte.utils.validation import explain


def described(
    simulation: Simulation,
    args: tuple[Any, ...],
    classes: Sequence[str] | None,
    preprocessing: Preprocessing | Mapping[str, Any] | Any | None,
) -> dict[str, Any]:
    """Metadata of a file: those of the simulation, and what is known of its images and classes.

    Args:
        simulation: The quantized model.
        args: The arguments of an example.
        classes: Names in the order of the outputs, of a detector from label 1 on.
        preprocessing: How an image is prepared for a classifier: a mapping with the keys of
            `data.preprocessing`, or what torchvision's `weights.transforms()` gives.

    Raises:
        SubbyteError: They do not fit the model or the example, or cannot be read.
    """
    known = dict(simulation.metadata)
    names = None if classes is None else _names(classes)
    original = simulation.float_model.original
    if simulation.region_names != WHOLE and is_whole(original):
        if preprocessing is not None:
            raise _detectors_own(original)
        known |= {"task": "detection", "preprocessing": None}
        known["images"] = _images(simulation, args)
        known.setdefault("classes", None)
        _check_count(names, label_count(original), "labels without the background", less=1)
    elif names is not None or preprocessing is not None:
        known["task"] = "classification"
        if preprocessing is not None:
            known["preprocessing"] = _prepared(preprocessing, args).as_classifiers()
        _check_count(names, None if names is None else _outputs(simulation, args), "outputs")
    return known if names is None else {**known, "classes": names}


def _names(classes: Any) -> list[str]:
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise SubbyteError(
            f"classes is {classes!r}: give a list of names in the order of the outputs (of a "
            "detector from label 1 on)"
        )
    return [str(name) for name in classes]


def _detectors_own(model: torch.nn.Module) -> SubbyteError:
    if isinstance(model, RawDetector):
        return SubbyteError(
            "preprocessing of a raw network is given to quantize, with its outputs, and goes into "
            "the file from there: leave it out"
        )
    return SubbyteError(
        "preprocessing has no meaning for detectors, which prepare images by themselves: leave it "
        "out"
    )


def _images(simulation: Simulation, args: tuple[Any, ...]) -> dict[str, Any]:
    """How images of any size become the example's, as the model itself would treat them."""
    size = size_of(images_of(args))
    known = simulation.metadata.get("images")
    if known is not None and tuple(known["size"]) == size:
        return dict(known)
    letterbox = own_letterbox(simulation.float_model.original, {size})
    return replace(letterbox, size=size).metadata()


def _prepared(given: Any, args: tuple[Any, ...]) -> Preprocessing:
    """A classifier's preprocessing, if images that went through it fit the example."""
    read = _read(given)
    image = next((x for x in args if isinstance(x, torch.Tensor) and x.dim() == 4), None)
    if len(args) != 1 or image is None:
        raise SubbyteError(
            "preprocessing is that of a classifier, whose one argument are images [N, C, H, W]: "
            "leave it out for other models"
        )
    channels, size = image.shape[1], (image.shape[-2], image.shape[-1])
    if read.channels != channels:
        raise SubbyteError(
            f"preprocessing makes {read.channels} channels, and the example has {channels}: give "
            "mean and std a value for each channel"
        )
    whole = read.crop or (read.resize if isinstance(read.resize, tuple) else None)
    if whole is not None and as_pair(whole) != size:
        height, width = as_pair(whole)
        raise SubbyteError(
            f"preprocessing makes images of {height}x{width}, and the example has "
            f"{size[0]}x{size[1]}: give the crop with which the model was calibrated"
        )
    return read


def _read(given: Any) -> Preprocessing:
    if isinstance(given, Preprocessing):
        fields: dict[str, Any] = given.model_dump(exclude_unset=True)
    elif isinstance(given, Mapping):
        fields = {str(key): value for key, value in given.items()}
    elif hasattr(given, "crop_size") and hasattr(given, "resize_size"):
        return Preprocessing(
            resize=given.resize_size[0],
            crop=given.crop_size[0],
            mean=tuple(given.mean),
            std=tuple(given.std),
            interpolation=given.interpolation.value,
        )
    else:
        raise SubbyteError(
            f"preprocessing is {given!r}: give a mapping, as {{'resize': 256, "
            "'crop': 224}, or what torchvision's weights.transforms() gives"
        )
    strange = [key for key in fields if key in OF_DETECTORS]
    if strange:
        raise SubbyteError(f"preprocessing: {strange[0]} is for raw networks of detectors alone")
    try:
        return Preprocessing(**fields)
    except ValidationError as error:
        raise explain(error, Preprocessing, "preprocessing") from None


@torch.no_grad()
def _outputs(simulation: Simulation, args: tuple[Any, ...]) -> int:
    """How many classes a classifier has."""
    output = simulation(*args)
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        raise SubbyteError(
            "classes are those of a classifier, which returns one tensor (images, classes), or of "
            "a detector with boxes: leave them out for other models"
        )
    return output.shape[1]


def _check_count(names: list[str] | None, count: int | None, what: str, less: int = 0) -> None:
    if names is not None and count is not None and len(names) != count - less:
        raise SubbyteError(
            f"classes has {len(names)} names, and the model has {count - less} {what}: give one "
            "for each"
        )
