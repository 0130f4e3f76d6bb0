"""Form "detections": rows that the network itself has chosen, each a box, a score and a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subbyte.detection import Outputs
from subbyte.detectors.raw.geometry import placed
from subbyte.detectors.raw.parts import Parts

Size = tuple[int, int]
COLUMNS = 6  # of a box, a score and a class's number


def expected(outputs: Outputs, size: Size) -> str:
    """What fits, as it stands in a sentence."""
    del outputs, size
    return "[N, detections, 4 + score + class]"


def read(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> Parts | None:
    """Boxes, scores and classes; `None`: the shapes do not fit.

    Args:
        outputs: What the network is said to give.
        tensors: What it gives.
        size: Height and width of its input.
    """
    del outputs, size
    if len(tensors) != 1 or tensors[0].dim() != 3 or tensors[0].shape[2] != COLUMNS:
        return None
    rows = tensors[0]
    return Parts(rows[..., :4], rows[..., 5:], rows[..., 4:5])


def decode(outputs: Outputs, found: Parts, size: Size) -> tuple[Tensor, Tensor]:
    """Boxes [N, B, 4] in pixels and scores [N, B, classes], 0 but for the class of each row.

    Args:
        outputs: What the network gives.
        found: That, as `read` has it.
        size: Height and width of the network's input.
    """
    assert outputs.classes is not None
    assert found.objectness is not None
    boxes = placed(found.boxes, outputs, size)
    numbers = torch.arange(outputs.classes, dtype=found.classes.dtype, device=found.classes.device)
    return boxes, (found.classes == numbers).to(boxes.dtype) * found.objectness


def looks_so(tensor: Tensor) -> bool:
    """Whether rows are a box, a score and the number of a class."""
    if tensor.dim() != 3 or tensor.shape[2] != COLUMNS:
        return False
    scores, numbers = tensor[..., 4], tensor[..., 5]
    shares = bool(((scores >= 0) & (scores <= 1)).all())
    return shares and bool((numbers == numbers.round()).all()) and float(numbers.max()) > 0
