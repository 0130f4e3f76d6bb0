"""Form "queries": logits and boxes of a transformer's queries."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from subbyte.detection import Outputs
from subbyte.detectors.raw import decoded
from subbyte.detectors.raw.parts import Parts, columns, parts_of

Size = tuple[int, int]

decode = decoded.decode  # behind the network queries are boxes like others


def expected(outputs: Outputs, size: Size) -> str:
    """What fits, as it stands in a sentence."""
    del size
    return (
        "logits [N, queries, classes] and boxes [N, queries, 4], or both in one "
        f"[N, queries, {columns(outputs)}]"
    )


def read(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> Parts | None:
    """Boxes and classes; `None`: the shapes do not fit.

    Args:
        outputs: What the network is said to give.
        tensors: What it gives.
        size: Height and width of its input.
    """
    del size
    fits = len(tensors) in (1, 2) and all(tensor.dim() == 3 for tensor in tensors)
    if not fits or len({tensor.shape[1] for tensor in tensors}) > 1:
        return None
    return parts_of(outputs, tensors)
