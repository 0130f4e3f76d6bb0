"""Image classification: logits in, top-1 and what goes with it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

PRIMARY_METRIC = "top1"


@dataclass(frozen=True)
class Logits:
    """What a classifier gave for a set of images.

    Attributes:
        logits: (images, classes) float32.
        labels: (images,) int64, the class indices of the images.
    """

    logits: np.ndarray
    labels: np.ndarray

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.logits)

    def take(self, numbers: Sequence[int]) -> Logits:
        """The outputs for the images at `numbers`, in that order."""
        chosen = np.asarray(numbers, np.int64)
        return Logits(self.logits[chosen], self.labels[chosen])


def metrics(outputs: Logits) -> dict[str, float]:
    """top-1 and top-5 (of models with more than five classes) as fractions in [0, 1]."""
    return {name: float(its.mean()) for name, its in right(outputs).items()}


def right(outputs: Logits) -> dict[str, np.ndarray]:
    """Metric → whether each image is right, (images,) bool."""
    ranks = _rank_of_label(outputs)
    found = {"top1": ranks < 1}
    if outputs.logits.shape[1] > 5:
        found["top5"] = ranks < 5
    return found


def answers(outputs: Logits) -> tuple[np.ndarray, np.ndarray]:
    """The class of each image's largest logit, (images,) int32, and its softmax, float32."""
    answer = outputs.logits.argmax(1).astype(np.int32)
    own = np.take_along_axis(outputs.logits, answer[:, None], 1)
    with np.errstate(invalid="ignore", over="ignore"):
        shares = 1 / np.exp((outputs.logits - own).astype(np.float64)).sum(1)
    return answer, np.where(np.isfinite(shares), shares, 0).astype(np.float32)


def interval(share: float, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's confidence interval for a share (Wilson 1927), in which the share itself lies.

    Args:
        share: In [0, 1].
        images: Of how many images.
        confidence: In (0, 1).
    """
    if images == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images)
    half *= math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    # At 0 and 1 one end is the share itself, which rounding misses by a last digit.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def agreement(first: Logits, second: Logits) -> float:
    """The share of images with the same top-1."""
    return float((first.logits.argmax(1) == second.logits.argmax(1)).mean())


def largest_difference(first: Logits, second: Logits) -> float:
    """The largest absolute difference of a logit."""
    return float(np.abs(first.logits - second.logits).max())


def sqnr_db(reference: Logits, outputs: Logits) -> float | None:
    """Energy of the reference's logits over that of the error, in dB.

    `None` without any error; NaN where an output is NaN.
    """
    signal = np.square(reference.logits, dtype=np.float64).sum()
    noise = np.square(outputs.logits.astype(np.float64) - reference.logits).sum()
    if noise == 0 or signal == 0:
        return None
    return float(10 * np.log10(signal / noise))


def _rank_of_label(outputs: Logits) -> np.ndarray:
    """How many classes score higher than the label's; ties go to the lower index, as in argmax."""
    own = np.take_along_axis(outputs.logits, outputs.labels[:, None], 1)
    higher = (outputs.logits > own).sum(1)
    index = np.arange(outputs.logits.shape[1])
    ties = ((outputs.logits == own) & (index < outputs.labels[:, None])).sum(1)
    broken = np.isnan(outputs.logits).any(1)  # such an output is wrong, whatever the label
    ranks: np.ndarray = np.where(broken, outputs.logits.shape[1], higher + ties)
    return ranks
