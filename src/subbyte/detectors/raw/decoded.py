"""Form "decoded": boxes and scores, in one tensor or in two or three."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from subbyte.detection import Outputs
from subbyte.detectors.raw.geometry import placed
from subbyte.detectors.raw.parts import Parts, columns, parts_of
from subbyte.detectors.raw.scores import scores_of

Size = tuple[int, int]


def expected(outputs: Outputs, size: Size) -> str:
    """What fits, as it stands in a sentence."""
    del size
    apart = "boxes [N, boxes, 4] and scores [N, boxes, classes]"
    if outputs.has_objectness:
        apart = "boxes [N, boxes, 4], objectness [N, boxes, 1] and scores [N, boxes, classes]"
    return f"[N, boxes, {columns(outputs)}], its transpose, or {apart}"


def read(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> Parts | None:
    """Boxes, objectness and classes; `None`: the shapes do not fit.

    Args:
        outputs: What the network is said to give.
        tensors: What it gives.
        size: Height and width of its input.
    """
    del size
    flat = [_without_ones(tensor) for tensor in tensors]
    if not flat or any(tensor.dim() != 3 for tensor in flat):
        return None
    if len(flat) == 1:
        rows = _upright(outputs, flat[0])
        return None if rows is None else parts_of(outputs, [rows])
    counts = set(flat[0].shape[1:])
    for tensor in flat[1:]:
        counts &= set(tensor.shape[1:])
    if not counts:
        return None
    count = max(counts)
    return parts_of(outputs, [x if x.shape[1] == count else x.transpose(1, 2) for x in flat])


def decode(outputs: Outputs, found: Parts, size: Size) -> tuple[Tensor, Tensor]:
    """Boxes [N, B, 4] in pixels and scores [N, B, classes].

    Args:
        outputs: What the network gives.
        found: That, as `read` has it.
        size: Height and width of the network's input.
    """
    boxes = placed(found.boxes, outputs, size)
    return boxes, scores_of(outputs, found.classes, found.objectness)


def _without_ones(tensor: Tensor) -> Tensor:
    """Boxes [N, B, 1, 4], as YOLOv4's files give them, as [N, B, 4]."""
    if tensor.dim() == 4 and tensor.shape[2] == 1:
        return tensor.squeeze(2)
    return tensor


def _upright(outputs: Outputs, rows: Tensor) -> Tensor | None:
    """[N, boxes, columns]: there are more boxes than columns, if the columns are not known."""
    tall, wide = rows.shape[1], rows.shape[2]
    if outputs.classes is not None:
        known = outputs.width + outputs.has_objectness + outputs.classes
        known += outputs.without != "none"
        if known in (tall, wide):
            return rows if wide == known else rows.transpose(1, 2)
    if tall == wide:
        return None
    return rows if tall > wide else rows.transpose(1, 2)
