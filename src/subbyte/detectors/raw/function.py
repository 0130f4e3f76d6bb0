"""Form FILE.py:FUNCTION: the user's own way from outputs to boxes and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import Tensor

from subbyte.detection import Outputs
from subbyte.errors import SubbyteError
from subbyte.graph.capture.place import complaint
from subbyte.models.factory import function_of

Size = tuple[int, int]


def decode(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> tuple[Tensor, Tensor]:
    """Boxes and scores; see `raw.decode`.

    Args:
        outputs: What the network gives; its form names the function.
        tensors: The network's outputs.
        size: Height and width of its input.

    Raises:
        SubbyteError: There is no such function, it fails, or it returns something else.
    """
    function = _named(outputs.form)
    try:
        found = function(tensors[0] if len(tensors) == 1 else tuple(tensors), size)
    except Exception as error:
        raise SubbyteError(f"outputs.form {outputs.form} failed: {complaint(error)}") from error
    return _checked(found, outputs)


@cache
def _named(form: str) -> Callable[..., Any]:
    try:
        return function_of(form)
    except SubbyteError as error:
        raise SubbyteError(f"outputs.form: {error}") from error


def _checked(found: Any, outputs: Outputs) -> tuple[Tensor, Tensor]:
    pair = tuple(found) if isinstance(found, tuple | list) else ()
    if len(pair) == 2 and all(isinstance(x, Tensor) and x.dim() == 3 for x in pair):
        boxes, scores = pair
        if boxes.shape[2] == 4 and boxes.shape[1] == scores.shape[1]:
            if outputs.classes in (None, scores.shape[2]):
                return boxes, scores
            raise SubbyteError(
                f"outputs.form {outputs.form} gives scores of {scores.shape[2]} classes, and "
                f"outputs.classes is {outputs.classes}: give both the same"
            )
    got = ", ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in pair)
    raise SubbyteError(
        f"outputs.form {outputs.form} returned {got or type(found).__name__}: return boxes "
        "[N, B, 4] and scores [N, B, classes]"
    )
