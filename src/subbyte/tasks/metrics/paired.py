"""How much lower a metric is for one model than for another on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Paired:
    """Two models' metrics on the same images, as fractions.

    Attributes:
        before: The metric of the one that is compared with.
        after: That of the other one.
        error: The standard error of their difference, over the choice of images.
        images: On how many.
        centre: The middle of the interval of what is lost; `None`: what is lost itself.
    """

    before: float
    after: float
    error: float
    images: int
    centre: float | None = None

    @property
    def lost(self) -> float:
        """How much lower it is."""
        return self.before - self.after

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """In which what is lost lies, on both sides."""
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * self.error
        return self._middle - half, self._middle + half

    def upper(self, confidence: float) -> float:
        """What is lost at most, with this one-sided confidence."""
        return self._middle + NormalDist().inv_cdf(confidence) * self.error

    @property
    def _middle(self) -> float:
        return self.lost if self.centre is None else self.centre

    def images_to_decide(self, budget: float, confidence: float) -> int | None:
        """On how many images `upper` would be within a budget, were as much lost on them.

        Args:
            budget: As a fraction.
            confidence: One-sided.

        Returns:
            `None` where as much as the budget is lost already, or the error is not known.
        """
        if not self.lost < budget or not math.isfinite(self.error):
            return None
        ratio = NormalDist().inv_cdf(confidence) * self.error / (budget - self.lost)
        return max(self.images, math.ceil(self.images * ratio * ratio))


def paired_shares(before: np.ndarray, after: np.ndarray) -> Paired:
    """Of images that are right or wrong, with the interval of Bonett and Price (2012).

    One image more is counted as lost and one as gained, and two images more in all, so that few
    changes do not look like certainty. `comparison.share_change` has the same interval.

    Args:
        before: Whether each image is right, boolean.
        after: Likewise, for the other model.
    """
    n = len(before)
    lost = (float((before & ~after).sum()) + 1) / (n + 2)
    gained = (float((~before & after).sum()) + 1) / (n + 2)
    error = math.sqrt((lost + gained - (lost - gained) ** 2) / (n + 2))
    return Paired(float(before.mean()), float(after.mean()), error, n, lost - gained)


def paired_scores(before: np.ndarray, after: np.ndarray) -> Paired:
    """Of a number for each image, of which the metric is the mean.

    Args:
        before: (images,).
        after: (images,), for the other model.
    """
    n = len(before)
    difference = before.astype(np.float64) - after
    spread = float(difference.std(ddof=1)) if n > 1 else math.inf
    return Paired(float(before.mean()), float(after.mean()), spread / math.sqrt(n), n)


def paired_draws(before: float, after: float, draws: np.ndarray, images: int) -> Paired:
    """Of a metric of all images together, of which the bootstrap (Efron 1979) gives the error.

    Args:
        before: The metric.
        after: Likewise, for the other model.
        draws: What is lost on images drawn with replacement, one number a draw.
        images: On how many.
    """
    known = draws[np.isfinite(draws)]
    error = float(known.std(ddof=1)) if len(known) > 1 else math.inf
    return Paired(before, after, error, images)
