"""A sentence about a network's outputs, proposed from what it gave for a batch of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from subbyte.detection import Outputs
from subbyte.detectors.raw import decode
from subbyte.detectors.raw.check import check
from subbyte.detectors.raw.detections import looks_so
from subbyte.detectors.raw.misfit import BINS, STRIDES
from subbyte.detectors.raw.taken import taken, tensors_of
from subbyte.errors import SubbyteError

USUAL = (80, 91, 90, 20, 365)  # classes of COCO, Pascal VOC and Objects365
QUERIES = 1000  # more rows than that are no queries
BEYOND = 1.0  # how far boxes reach beyond the image at most, as a share of it
REACH = 0.25  # how far at least some reach into it


def proposed(raw: Any, size: tuple[int, int], classes: int | None = None) -> Outputs | None:
    """The first sentence by which all that a network gave makes sense, and nothing is left over.

    Shapes tell most of it and values some; activations such as a softmax and the point of distances
    cannot be seen, and are those of most networks.

    Args:
        raw: What the network gave for some images, such as it was trained with.
        size: Height and width of its input.
        classes: How many there are; `None`: numbers that data sets have are preferred.

    Returns:
        The sentence, or `None` where none makes sense.
    """
    wanted: list[tuple[int, ...] | None] = [(classes,)] if classes is not None else [USUAL, None]
    for counts in wanted:
        for keys in _sentences(raw, classes):
            found = _classes(Outputs(**keys), raw, size)
            if found is not None and (counts is None or found in counts):
                return Outputs(**keys)
    return None


def _sentences(raw: Any, classes: int | None) -> Iterator[dict[str, Any]]:
    """The likelier ones first, each with scores as they are and by a sigmoid."""
    takes: list[dict[str, Any]] = [{}]
    if len(tensors_of(raw)) > 1:
        takes.append({"take": [0]})
    for take in takes:
        tensors = taken(Outputs(form="decoded", **take), raw)
        if len(tensors) == 1 and looks_so(tensors[0]):
            yield {"form": "detections", "classes": classes or USUAL[0], **take}
        for keys in _forms(tensors):
            for activation in ("none", "sigmoid"):
                yield {**keys, "activation": activation, **take}


def _forms(tensors: Sequence[Any]) -> Iterator[dict[str, Any]]:
    rows = max((max(tensor.shape[1:], default=0) for tensor in tensors), default=0)
    if rows <= QUERIES and all(tensor.dim() == 3 for tensor in tensors):
        yield {"form": "queries"}
    for objectness in (False, True):
        yield {"form": "decoded", "objectness": objectness}
    for strides in STRIDES:
        levels = {"form": "levels", **({} if strides == STRIDES[0] else {"strides": strides})}
        yield {**levels, "box": "yolox"}
        for bins in BINS:
            yield {**levels, "bins": bins}
    yield {"form": "levels", "box": "anchors"}
    for objectness in (False, True):
        yield {"form": "decoded", "objectness": objectness, "unit": "relative"}


def _classes(outputs: Outputs, raw: Any, size: tuple[int, int]) -> int | None:
    """How many classes there are by a sentence; `None`: it makes no sense."""
    try:
        classes = check(outputs, raw, size)
    except SubbyteError:  # this one is no candidate
        return None
    if outputs.form == "levels":
        return classes
    # Decoded boxes are all over the image, and none far outside; numbers at a cell are small.
    boxes, _ = decode(outputs, raw, size)
    shares = boxes / boxes.new_tensor([size[1], size[0]] * 2)
    near = float(((shares > -BEYOND) & (shares < 1 + BEYOND)).float().mean())
    return classes if near > 0.99 and float(shares.amax()) > REACH else None
