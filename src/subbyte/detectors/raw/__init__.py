"""From what a detector's raw network gives to boxes and scores, as `detection.Outputs` says.

`decode` is a pure function without order, thresholds or limits, so that a loss can compare two
networks row by row. One file a form: `decoded`, `levels`, `queries`, `detections`, `function`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from subbyte.detection import Outputs
from subbyte.detectors.raw import function
from subbyte.detectors.raw.misfit import FORMS, misfit
from subbyte.detectors.raw.taken import taken


def decode(outputs: Outputs, raw: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes and scores of all that a network gives.

    Args:
        outputs: What the network gives.
        raw: That: a tensor, or tensors in a list, a tuple or a dictionary, nested or not.
        size: Height and width of the network's input, in pixels.

    Returns:
        Boxes [N, B, 4], x0, y0, x1, y1 in pixels of the network's input, and scores
        [N, B, classes] after their activation. The B rows are those of the network, of levels one
        after the other.

    Raises:
        SubbyteError: The shapes do not fit; the message has these and what would fit.
    """
    tensors = taken(outputs, raw)
    form = FORMS.get(outputs.form)
    if form is None:
        return function.decode(outputs, tensors, size)
    found = form.read(outputs, tensors, size)
    if found is None:
        raise misfit(outputs, tensors, size)
    boxes, scores = form.decode(outputs, found, size)
    return boxes, scores
