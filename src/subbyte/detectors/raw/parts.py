"""Which columns are boxes, which objectness and which classes; in one tensor or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from subbyte.detection import Outputs


@dataclass(frozen=True)
class Parts:
    """What a row is made of.

    Attributes:
        boxes: [N, B, numbers of a box].
        classes: [N, B, classes], and perhaps the background.
        objectness: [N, B, 1], if there is one.
    """

    boxes: Tensor
    classes: Tensor
    objectness: Tensor | None = None


def columns(outputs: Outputs) -> str:
    """The columns of one tensor, as they stand in a sentence."""
    classes = str(outputs.classes) if outputs.classes is not None else "classes"
    if outputs.classes is not None and outputs.without != "none":
        classes = str(outputs.classes + 1)
    numbers = [str(outputs.width), *(["1"] if outputs.has_objectness else []), classes]
    return " + ".join([numbers[-1], *numbers[:-1]] if outputs.order == "classes" else numbers)


def parts_of(outputs: Outputs, tensors: Sequence[Tensor]) -> Parts | None:
    """Boxes, objectness and classes of tensors [N, B, columns]; `None`: they do not fit."""
    found = _found(outputs, tensors)
    if found is None or found.boxes.shape[-1] != outputs.width:
        return None
    width = found.classes.shape[-1] - (outputs.without != "none")
    if width < 1 or outputs.classes not in (None, width):
        return None
    return found


def _found(outputs: Outputs, tensors: Sequence[Tensor]) -> Parts | None:
    if len(tensors) == 1:
        return _of_one(outputs, tensors[0])
    if len(tensors) == 2 and not outputs.has_objectness:
        pair = _pair(outputs, tensors[0], tensors[1])
        return None if pair is None else Parts(*pair)
    if len(tensors) == 2:  # boxes with their objectness behind them
        pair = _pair(outputs, tensors[0], tensors[1], more=1)
        if pair is None:
            return None
        boxes, classes = pair
        return Parts(boxes[..., : outputs.width], classes, boxes[..., outputs.width :])
    if len(tensors) == 3 and outputs.has_objectness:
        single = [i for i, tensor in enumerate(tensors) if tensor.shape[-1] == 1]
        if not single:
            return None
        others = [tensor for i, tensor in enumerate(tensors) if i != single[-1]]
        pair = _pair(outputs, others[0], others[1])
        return None if pair is None else Parts(*pair, tensors[single[-1]])
    return None


def _of_one(outputs: Outputs, rows: Tensor) -> Parts | None:
    width, more = outputs.width, int(outputs.has_objectness)
    if rows.shape[-1] <= width + more:
        return None
    if outputs.order == "classes":
        classes, rest = rows[..., : -width - more], rows[..., -width - more :]
    else:
        rest, classes = rows[..., : width + more], rows[..., width + more :]
    return Parts(rest[..., :width], classes, rest[..., width:] if more else None)


def _pair(
    outputs: Outputs, first: Tensor, second: Tensor, more: int = 0
) -> tuple[Tensor, Tensor] | None:
    """Boxes and classes of two tensors; `None`: neither can be the boxes."""
    width = outputs.width + more
    known = None if outputs.classes is None else outputs.classes + (outputs.without != "none")
    orders = [(first, second), (second, first)]
    if outputs.classes_first:
        orders.reverse()
    for boxes, classes in orders:
        if boxes.shape[-1] == width and known in (None, classes.shape[-1]):
            return boxes, classes
    return None
