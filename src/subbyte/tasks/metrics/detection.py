"""Object detection: boxes, scores and labels in, AP and what goes with it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subbyte.errors import SubbyteError
from subbyte.utils.files import atomic

PRIMARY_METRIC = "AP"
AGREEMENT_IOU = 0.9
KEYS = ("boxes", "scores", "labels")
_FORM = (
    "a detector returns a list with a dictionary for each image, of boxes (N, 4: x0, y0, x1, y1 in "
    "the image's pixels), scores (N) and labels (N, from 1), so wrap the model in a module that "
    "returns these"
)


@dataclass(frozen=True)
class DetectionOutputs:
    """What a detector gave for a set of images: for image i, N detections.

    Attributes:
        image_ids: (images,) int64.
        boxes: Of image i (N, 4) float32, x0, y0, x1, y1 in pixels.
        scores: Of image i (N,) float32.
        labels: Of image i (N,) int64, from 1.
    """

    image_ids: np.ndarray
    boxes: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def detections(self) -> int:
        """Number of detections on all images together."""
        return sum(map(len, self.scores))

    def take(self, numbers: Sequence[int]) -> DetectionOutputs:
        """The outputs for the images at `numbers`, in that order."""
        chosen = np.asarray(numbers, np.int64)
        parts = (tuple(getattr(self, key)[i] for i in numbers) for key in KEYS)
        return DetectionOutputs(self.image_ids[chosen], *parts)

    def above(self, threshold: float) -> DetectionOutputs:
        """The detections with at least this score, on the same images."""
        keep = [scores >= threshold for scores in self.scores]
        return DetectionOutputs(self.image_ids, *(_kept(getattr(self, key), keep) for key in KEYS))

    def save(self, path: Path) -> None:
        """Write an npz file, whole or not at all."""
        counts = np.array([len(scores) for scores in self.scores], np.int64)
        empty = {"boxes": np.empty((0, 4), np.float32), "scores": np.empty(0, np.float32)}
        empty["labels"] = np.empty(0, np.int64)
        arrays: dict[str, Any] = {"image_ids": self.image_ids, "counts": counts}
        for key in KEYS:
            arrays[key] = np.concatenate([empty[key], *getattr(self, key)])
        with atomic(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)


def load(path: Path) -> DetectionOutputs:
    """What `DetectionOutputs.save` wrote."""
    with np.load(path) as arrays:
        ends = np.cumsum(arrays["counts"])[:-1]
        parts = [tuple(np.split(arrays[key], ends)) for key in KEYS]
        return DetectionOutputs(arrays["image_ids"], *parts)


def outputs_of(
    detections: Sequence[Mapping[str, Any]], image_ids: Sequence[int]
) -> DetectionOutputs:
    """The outputs of a detector for the images of these ids, from what it returned for each.

    The tensors or arrays may be on any device and of any number type; see `check_detections`.
    """
    columns = {key: [_array(found[key]) for found in detections] for key in KEYS}
    return DetectionOutputs(
        np.array(image_ids, np.int64),
        tuple(boxes.astype(np.float32).reshape(-1, 4) for boxes in columns["boxes"]),
        tuple(scores.astype(np.float32) for scores in columns["scores"]),
        tuple(labels.astype(np.int64) for labels in columns["labels"]),
    )


def numbers_only(outputs: DetectionOutputs) -> tuple[DetectionOutputs, int]:
    """The same, where no box and no score is NaN or infinite; and how many detections were.

    Such a one becomes a box without area and gets the score -1: it is wrong, and comes last.
    """
    good = [
        np.isfinite(boxes).all(1) & np.isfinite(scores)
        for boxes, scores in zip(outputs.boxes, outputs.scores, strict=True)
    ]
    boxes, scores = (
        tuple(
            np.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, np.float32(instead))
            for mask, values in zip(good, arrays, strict=True)
        )
        for arrays, instead in ((outputs.boxes, 0), (outputs.scores, -1))
    )
    bad = sum(int((~mask).sum()) for mask in good)
    return DetectionOutputs(outputs.image_ids, boxes, scores, outputs.labels), bad


def check_detections(output: Any, images: int) -> list[dict[str, torch.Tensor]]:
    """The output of a detector for so many images, if it is in torchvision's form.

    Raises:
        SubbyteError: It is not a list of one dictionary for each image, with boxes (N, 4) and as
            many scores and labels, labels being integers.
    """
    if not isinstance(output, list | tuple) or not all(isinstance(o, Mapping) for o in output):
        raise SubbyteError(f"the model returns {_described(output)} and not detections: {_FORM}")
    if len(output) != images:
        raise SubbyteError(
            f"the model returns {len(output)} dictionaries for {images} images: {_FORM}"
        )
    for found in output:
        fault = _fault(found)
        if fault is not None:
            raise SubbyteError(f"the model returns detections {fault}: {_FORM}")
    return [{key: found[key] for key in KEYS} for found in output]


def agreement(first: DetectionOutputs, second: DetectionOutputs, threshold: float = 0.0) -> float:
    """The share of the detections of both that are matched: 2 · pairs / (those of both together).

    A pair is a detection of each of the two on the same image, of the same class and with an IoU of
    at least 0.9; each is in one pair at most. Both ways round it is the same; without any detection
    it is 1.

    Args:
        first: DetectionOutputs.
        second: Those of another model for the same images.
        threshold: Only detections with at least this score count.
    """
    first, second = first.above(threshold), second.above(threshold)
    both = first.detections + second.detections
    pairs = sum(len(rows) for rows, _ in matches(first, second, AGREEMENT_IOU))
    return 2 * pairs / both if both else 1.0


def largest_difference(first: DetectionOutputs, second: DetectionOutputs) -> float | None:
    """The largest absolute difference of the scores of matched detections; `None` of none."""
    pairs = enumerate(matches(first, second, AGREEMENT_IOU))
    shifts = [np.abs(first.scores[i][a] - second.scores[i][b]) for i, (a, b) in pairs]
    joined = np.concatenate([np.empty(0, np.float32), *shifts])
    return float(joined.max()) if joined.size else None


def matches(
    first: DetectionOutputs, second: DetectionOutputs, at_least: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each image, which detections of the two show the same: two index arrays.

    Pairs are of the same class; those of the largest IoU come first, and each detection is in one
    pair at most.

    Args:
        first: DetectionOutputs.
        second: Those of another model for the same images.
        at_least: The IoU that a pair has.

    Raises:
        SubbyteError: The images are not the same.
    """
    if not np.array_equal(first.image_ids, second.image_ids):
        raise SubbyteError("the two outputs are of different images: compare those of the same")
    return [
        _paired(overlaps(boxes, others) * (labels[:, None] == other_labels), at_least)
        for boxes, others, labels, other_labels in zip(
            first.boxes, second.boxes, first.labels, second.labels, strict=True
        )
    ]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each of N boxes with each of M, (N, M) float64.

    It is 0 where a box has no area or is NaN. A box reaches from (x0, y0) to (x1, y1), so its width
    is x1 - x0.
    """
    first = np.asarray(boxes, np.float64)[:, None]
    second = np.asarray(others, np.float64)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
            first[..., :2], second[..., :2]
        )
        common = np.clip(sides, 0, None).prod(-1)
        found = common / (_area(first) + _area(second) - common)
    clean: np.ndarray = np.where(np.isfinite(found) & (common > 0), found, 0.0)
    return clean


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)
    return area


def _paired(ious: np.ndarray, at_least: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, column) of values of `at_least`, the largest first, each row and column once."""
    rows, columns = np.nonzero(ious >= at_least)
    order = np.argsort(-ious[rows, columns], kind="stable")
    free_row, free_column = np.ones(ious.shape[0], bool), np.ones(ious.shape[1], bool)
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_row[row] and free_column[column]:
            free_row[row] = free_column[column] = False
            pairs.append((row, column))
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return first, second


def _kept(arrays: Sequence[np.ndarray], keep: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(array[mask] for array, mask in zip(arrays, keep, strict=True))


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.is_floating_point() else values)
    return np.asarray(values)


def _fault(found: Mapping[Any, Any]) -> str | None:
    """What is wrong with the detections of one image; the end of a sentence."""
    missing = [key for key in KEYS if not isinstance(found.get(key), torch.Tensor)]
    if missing:
        return f"without a tensor of {missing[0]}"
    boxes, scores, labels = (found[key] for key in KEYS)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        return f"whose boxes are of shape {tuple(boxes.shape)}"
    for key, values in (("scores", scores), ("labels", labels)):
        if values.shape != (len(boxes),):
            return f"with {len(boxes)} boxes and {key} of shape {tuple(values.shape)}"
    if labels.is_floating_point() or not scores.is_floating_point():
        return f"with {scores.dtype} scores and {labels.dtype} labels"
    return None


def _described(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a dictionary of {', '.join(map(str, output))}"
    if isinstance(output, list | tuple):
        kinds = ", ".join(sorted({type(part).__name__ for part in output}))
        return f"a {type(output).__name__} of {len(output)} ({kinds})"
    return f"a {type(output).__name__}"
