"""Outputs that do not fit the sentence about them: the shapes, and the sentence that would fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from torch import Tensor

from subbyte.detection import CODED, Outputs
from subbyte.detectors.raw import decoded, detections, levels, queries
from subbyte.detectors.raw.taken import shapes
from subbyte.errors import SubbyteError

FORMS: Mapping[str, Any] = {
    "decoded": decoded,
    "levels": levels,
    "queries": queries,
    "detections": detections,
}
Size = tuple[int, int]

# What the keys of a sentence may be instead, the likelier first.
STRIDES: tuple[list[int], ...] = (
    [8, 16, 32],
    [4, 8, 16, 32],
    [8, 16, 32, 64],
    [16, 32],
    [8, 16],
    [4, 8, 16],
    [32],
)
BINS = (8, 16, 1, 17, 33)
OTHERS: dict[str, tuple[Any, ...]] = {
    "bins": BINS,
    "objectness": (True, False),
    "order": ("classes", "boxes"),
    "box": CODED,
    "strides": STRIDES,
    "classes": (None,),
}
MOST_BINS = 64
KEPT = ("score", "classes")  # keys that another form has in the same sense


def misfit(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> SubbyteError:
    """The error for outputs of other shapes than the sentence says.

    Args:
        outputs: The sentence.
        tensors: What the network gives.
        size: Height and width of its input.
    """
    height, width = size
    found = fitting(outputs, tensors, size)
    would = ""
    if found is not None:
        would = f"; these would fit: {text(found)}" if found else ""
    return SubbyteError(
        f"the network gives {shapes(tensors)} for images of {height} × {width}, and outputs with "
        f"form: {outputs.form} are {FORMS[outputs.form].expected(outputs, size)}{would}"
    )


def fitting(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> dict[str, Any] | None:
    """The fewest keys by which a sentence would fit; `None`: none is known.

    Args:
        outputs: A sentence that does not fit.
        tensors: What the network gives.
        size: Height and width of its input.
    """
    given = outputs.model_dump(exclude_unset=True)
    kept = {key: given[key] for key in KEPT if key in given}
    others = [form for form in FORMS if form != outputs.form]
    widths = {side // 4 for tensor in tensors for side in tensor.shape[1:] if side % 4 == 0}
    bins = [*BINS, *sorted(width for width in widths if 1 < width <= MOST_BINS)]
    changes_ = list(_changes({**OTHERS, "bins": tuple(dict.fromkeys(bins))}))
    for base, changes in [
        *((given, change) for change in changes_),
        *((kept, {"form": form} | change) for form in others for change in ({}, *changes_)),
        *((given, {"take": take}) for take in _some_of(tensors)),
    ]:
        candidate = _sentence({**base, **changes})
        if candidate is None:
            continue
        chosen = [tensors[i] for i in changes.get("take", range(len(tensors)))]
        read = FORMS[candidate.form].read(candidate, chosen, size)
        if read is not None:
            return changes | (
                {"classes": _classes(candidate, read)} if "classes" in changes else {}
            )
    return None


def _changes(others: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """One key with another value, then two."""
    for count in (1, 2):
        for keys in combinations(others, count):
            for values in product(*(others[key] for key in keys)):
                yield dict(zip(keys, values, strict=True))


def _sentence(fields: dict[str, Any]) -> Outputs | None:
    try:
        return Outputs(**fields)
    except SubbyteError:  # keys that exclude each other are no candidate
        return None


def _some_of(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Pairs of boxes and classes among more tensors, then single ones."""
    count = len(tensors)
    if count > 2:
        for i, j in combinations(range(count), 2):
            if 4 in (tensors[i].shape[-1], tensors[j].shape[-1]):
                yield [i, j]
    if count > 1:
        yield from ([i] for i in range(count))


def _classes(outputs: Outputs, read: Any) -> int:
    if outputs.classes is not None:
        return outputs.classes
    parts = read.parts[0] if isinstance(read, levels.Read) else read
    return int(parts.classes.shape[-1]) - (outputs.without != "none")


def text(changes: Mapping[str, Any]) -> str:
    """Keys and values as they stand in a YAML file."""
    return ", ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in changes.items()
    )
