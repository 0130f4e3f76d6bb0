"""COCO's AP on images drawn with replacement, from one evaluation of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics import coco
from subbyte.tasks.metrics.detection import DetectionOutputs, numbers_only
from subbyte.tasks.metrics.paired import Paired, paired_draws

DRAWS = 300
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class _Class:
    """The detections of one class on all images, the highest scores first.

    Attributes:
        image: Of each detection, the number of its image.
        right: (thresholds, detections): it found an object.
        wrong: Likewise: it found none.
        objects: Of each image, how many there are to be found.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def paired_ap(
    before: DetectionOutputs,
    after: DetectionOutputs,
    truth: Sequence[Objects],
    classes: Sequence[str],
    seed: int = 0,
) -> Paired:
    """The AP of two detectors on the same images, and the error of what is lost.

    Args:
        before: The detections of the one that is compared with.
        after: Those of the other one.
        truth: The objects of at least these images.
        classes: Their names.
        seed: Of the draws.
    """
    images = before.images
    generator = np.random.default_rng(seed)
    times = generator.multinomial(images, np.full(images, 1 / images), DRAWS).astype(np.float64)
    whole = np.ones((1, images))
    first, second = (list(_classes(found, truth, classes)) for found in (before, after))
    draws = _ap(first, times) - _ap(second, times)
    return paired_draws(float(_ap(first, whole)[0]), float(_ap(second, whole)[0]), draws, images)


def _classes(
    outputs: DetectionOutputs, truth: Sequence[Objects], classes: Sequence[str]
) -> Iterator[_Class]:
    clean, _ = numbers_only(outputs)
    evaluation = coco.evaluated(clean, coco.truth_of(outputs, truth), classes)
    images, sizes = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    for k in range(len(evaluation.params.catIds)):
        start = k * sizes * images  # of objects of all sizes
        entries = evaluation.evalImgs[start : start + images]
        scores, image, right, wrong = [], [], [], []
        objects = np.zeros(images)
        for i, entry in enumerate(entries):
            if entry is None:
                continue
            objects[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
            found = np.asarray(entry["dtMatches"]) != 0
            kept = np.asarray(entry["dtIgnore"]) == 0
            scores.append(np.asarray(entry["dtScores"], np.float64))
            image.append(np.full(len(scores[-1]), i))
            right.append(found & kept)
            wrong.append(~found & kept)
        if not scores:
            continue
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        yield _Class(
            np.concatenate(image)[order],
            np.concatenate(right, 1)[:, order],
            np.concatenate(wrong, 1)[:, order],
            objects,
        )


def _ap(classes: Sequence[_Class], times: np.ndarray) -> np.ndarray:
    """The mean AP of the classes that there are, where image i counts as often as `times` says.

    Args:
        classes: The classes.
        times: (draws, images).
    """
    found = np.array([_class_ap(one, times) for one in classes]).reshape(len(classes), len(times))
    known = np.isfinite(found)
    counts = known.sum(0)
    total = np.where(known, found, 0.0).sum(0)
    mean: np.ndarray = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    return mean


def _class_ap(one: _Class, times: np.ndarray) -> np.ndarray:
    """(draws,); NaN where a draw has no object of the class."""
    objects = times @ one.objects
    weights = times[:, one.image]
    total = np.zeros(len(times))
    for right, wrong in zip(one.right, one.wrong, strict=True):
        hits = np.cumsum(weights * right, 1)
        misses = np.cumsum(weights * wrong, 1)
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        recall = hits / np.maximum(objects, 1)[:, None]
        for draw in range(len(times)):
            at = np.searchsorted(recall[draw], RECALLS, side="left")
            total[draw] += precision[draw][at[at < len(one.image)]].sum()
    mean: np.ndarray = total / (len(one.right) * len(RECALLS))
    return np.where(objects > 0, mean, np.nan)
