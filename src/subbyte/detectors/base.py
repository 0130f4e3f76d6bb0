"""What Subbyte has to know of a family of detectors.

A family is a file in this folder with a `FAMILY` in it. It is found by being there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from torch import Tensor, nn

from subbyte.detectors.letterbox import Letterbox, Sizes, ratio_kept
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import Regional
from subbyte.graph.output_loss import OutputLoss

PACKAGE = __name__.rpartition(".")[0]

# How wrong a model is: of what its regions give for a batch, and of the batch's targets.
TrainingLoss = Callable[[Any, Any], Tensor]
OneSize = Callable[[tuple[Any, ...]], tuple[Any, ...]]  # of a batch's arguments


@dataclass(frozen=True)
class Deployment:
    """A module to write as a file.

    Attributes:
        module: From the file's inputs to its outputs.
        args: The module's arguments for one batch.
        outputs: Names of the outputs; `None`: the exporter's own.
        shapes: Which dimensions are dynamic; `None`: the first of each tensor that has as many
            entries as the first argument.
        raw: Names of the last outputs, the network's raw ones. They are not part of this file, but
            all that a file without post-processing gives.
        own_code: The module runs code of the user's around the regions.
    """

    module: nn.Module
    args: tuple[Any, ...]
    outputs: tuple[str, ...] | None = None
    shapes: Any = None
    raw: tuple[str, ...] = ()
    own_code: bool = False


class Order(IntEnum):
    """When a family is asked whether it matches a model; the first match wins.

    Families of the same order are asked in the order of their files' names, so their `matches`
    should exclude each other.
    """

    DECLARED = 0  # the model declares by an attribute what happens around its network
    KNOWN = 1  # the model's class is known
    FALLBACK = 2  # for whatever is left


@dataclass(frozen=True)
class Family:
    """What Subbyte knows of a family of detectors.

    Every function gets the model as its first argument: the user's own, or a copy in which the
    regions are graph modules. `matches` should therefore ask for the class or an attribute of the
    model itself, and not for its submodules.

    Attributes:
        matches: Whether a model belongs to the family.
        deployment: `(model, captured, args, postprocess) -> Deployment`, what to write of `model`
            for batches like `args`: a copy of the captured model in evaluation mode, lowered for a
            target, which the function may change. With `postprocess` from images [N, 3, H, W] in
            [0, 1] to `nms.OUTPUTS`, without it to the raw outputs.
        order: When the family is asked.
        regions: The model's regions, by their qualified names; `None`: they are searched for. The
            model's own attribute `subbyte_regions` goes first.
        boxes: `(model, images) -> nn.Module`, which makes `nms.Detections` of the raw outputs, a
            mapping by their names, for images of this height and width. `None`: nothing can do so
            outside of the model.
        training_loss: `(captured, original) -> TrainingLoss`, of the raw outputs, or `None`;
            `original` is the user's model.
        output_loss: `model -> OutputLoss`, what an error in the raw outputs of `regions` costs, or
            `None`.
        letterbox: `(model, sizes) -> Letterbox`, how a file takes images of several sizes (height,
            width).
        one_size: `model -> (args -> args)`, which brings a batch's images to the one size that the
            model itself brings them to; `None`: it takes them at theirs.
        label_count: How many labels a model has, the background among them; `None`: unknown.
        whole: Whether files can go from images to boxes.
        tried: `(model, images) -> None`, looks at what a model gives for a first batch and raises
            `SubbyteError` if that cannot be right.
        operators: The family's own PyTorch operators, each with its translation to ONNX.
    """

    matches: Callable[[nn.Module], bool]
    deployment: Callable[[Any, Regional, tuple[Any, ...], bool], Deployment]
    order: Order = Order.KNOWN
    regions: Callable[[nn.Module], tuple[str, ...] | None] = lambda _: None
    boxes: Callable[[Any, Tensor], nn.Module] | None = None
    training_loss: Callable[[Regional, nn.Module], TrainingLoss | None] = lambda *_: None
    output_loss: Callable[[Any], OutputLoss | None] = lambda _: None
    letterbox: Callable[[Any, Sizes], Letterbox] = ratio_kept
    one_size: Callable[[Any], OneSize | None] = lambda _: None
    label_count: Callable[[Any], int | None] = lambda _: None
    whole: bool = True
    tried: Callable[[Any, Any], None] = lambda *_: None
    operators: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)


def unwritable(model: nn.Module) -> SubbyteError:
    """The error for a model of which nobody knows how to write the way to boxes."""
    return SubbyteError(
        f"how {type(model).__name__} makes boxes of its outputs cannot be written as ONNX: "
        "export with postprocess=False (in an experiment export.postprocess: false), which "
        "gives the raw outputs of its regions"
    )


def families() -> list[Family]:
    """The `FAMILY` of each file in this folder that has one, in the order of being asked."""
    found: list[tuple[Order, str, Family]] = []
    for file in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        if not file.ispkg:
            module = importlib.import_module(f"{PACKAGE}.{file.name}")
            family = getattr(module, "FAMILY", None)
            if isinstance(family, Family):
                found.append((family.order, file.name, family))
    return [family for *_, family in sorted(found, key=lambda entry: entry[:2])]


def family_of(model: nn.Module) -> Family:
    """The first family that matches a model; the last one matches every model."""
    return next(family for family in families() if family.matches(model))
