"""Objects of a detector: AP by class and size, precision against recall, lost and gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subbyte.app.report.page import words
from subbyte.app.report.page.reading import SIMULATION, Entry, RunRecord
from subbyte.app.right import Right

RECALLS = np.linspace(0, 1, 101)
SHOWN_IOUS = {0: "0.50", 5: "0.75"}  # bit of `found` → the IoU
SIZES = {"AP_small": "small, below 32² pixels", "AP_medium": "medium", "AP_large": "large, 96² up"}
MOST_ROWS = 80


@dataclass(frozen=True)
class ApRow:
    """AP of a class or size.

    Attributes:
        name: The class or size.
        before: Of the float model.
        after: Of the variant.
    """

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """By how much it is higher."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class FoundObjects:
    """What is shown of a variant.

    Attributes:
        where: Where both ran, of AP and the curves.
        images: On how many images.
        classes: AP by class, those that lost most first.
        left_out: How many classes are not among them.
        sizes: AP by size.
        curves: Precision at each of 101 recalls, by IoU, of the float model and the variant.
        changes: The key `objects` of the entry: lost, gained and so on.
        by_class: As `objects.json` has it; empty where there is none.
        shifts: How scores moved, as `objects.json` has it.
    """

    where: str
    images: int
    classes: Sequence[ApRow]
    left_out: int
    sizes: Sequence[ApRow]
    curves: Mapping[str, Sequence[Any]]
    changes: Mapping[str, Any]
    by_class: Sequence[Mapping[str, Any]]
    shifts: Mapping[str, Any] | None


def objects_of(run: RunRecord, entry: Entry) -> FoundObjects | None:
    """What is shown of a variant's objects; `None` of what is not a detector's."""
    if run.float is None or "per_class" not in entry.measured:
        return None
    before, after = run.float.places, entry.places
    common = [key for key in after if key in before and after[key].get("images")]
    where = next((key for key in common if key != SIMULATION), SIMULATION)
    first, second = before[where], after[where]
    classes = [
        ApRow(name, _known(first.get("per_class", {}).get(name)), _known(value))
        for name, value in second.get("per_class", {}).items()
    ]
    classes = [row for row in classes if not (row.before is None and row.after is None)]
    classes.sort(key=lambda row: row.change if row.change is not None else 9)
    sizes = [
        ApRow(text, _known(first["metrics"].get(key)), _known(second["metrics"].get(key)))
        for key, text in SIZES.items()
    ]
    found = entry.json("objects.json") or {}
    return FoundObjects(
        where=where,
        images=int(second.get("images", 0)),
        classes=classes[:MOST_ROWS],
        left_out=max(0, len(classes) - MOST_ROWS),
        sizes=[row for row in sizes if row.after is not None],
        curves=_curves(run.right(run.float).get(where), run.right(entry).get(where)),
        changes=entry.measured.get("objects") or {},
        by_class=sorted(found.get("classes", []), key=lambda row: -(row["lost"] + row["gained"])),
        shifts=found.get("score_shifts"),
    )


def _curves(before: Right | None, after: Right | None) -> dict[str, list[Any]]:
    """Precision at each recall, by IoU, of both models; empty where it is not known."""
    if before is None or after is None or "found" not in after.values:
        return {}
    return {
        name: [words.rounded(precision(its.values, bit).tolist()) for its in (before, after)]
        for bit, name in SHOWN_IOUS.items()
    }


def precision(matched: Mapping[str, np.ndarray], bit: int) -> np.ndarray:
    """COCO's precision at 101 values of recall, averaged over the classes that have objects.

    Args:
        matched: Which detections find an object, as `images.npz` has it.
        bit: That of the IoU, in `found` and `set_aside`.
    """
    counts = (matched["set_aside"] >> bit & 1) == 0
    labels, scores = matched["labels"][counts], matched["scores"][counts]
    right = (matched["found"][counts] >> bit & 1).astype(bool)
    order = np.lexsort((-scores, labels))
    labels, right = labels[order], right[order]
    total = np.zeros(len(RECALLS))
    classes, objects = np.unique(matched["object_labels"], return_counts=True)
    for label, number in zip(classes, objects, strict=True):
        own = right[np.searchsorted(labels, label) : np.searchsorted(labels, label, "right")]
        hits = own.cumsum()
        curve = np.maximum.accumulate((hits / np.arange(1, len(own) + 1))[::-1])[::-1]
        places = np.searchsorted(hits / number, RECALLS)
        total += np.append(curve, 0)[np.minimum(places, len(curve))]
    return total / max(1, len(classes))


def _known(value: Any) -> float | None:
    return value if words.is_number(value) else None
