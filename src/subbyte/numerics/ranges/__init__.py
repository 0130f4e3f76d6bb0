"""The range rules: one function each, from a sample of values to the range a grid covers.

A rule sees weights and activations alike: `Sample.values` has one row a channel (weights) or one
row in all (activations, whose values are the centres of a histogram and `counts` their numbers).
Rules by moments are in `clips`, entropy calibration is in `entropy`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from subbyte.errors import SubbyteError, unknown
from subbyte.numerics.qspec import TINY, QSpec, qparams_of
from subbyte.numerics.ranges.clips import gauss, laplace, n_std
from subbyte.numerics.ranges.kl import kl
from subbyte.numerics.ranges.sample import Range, Sample, sample_of
from subbyte.numerics.ranges.search import search

__all__ = [
    "MSE_EXPONENT",
    "RULES",
    "Range",
    "Sample",
    "check",
    "choose",
    "sample_of",
    "weighs",
]

MSE_EXPONENT = {"weights": 3.0, "activations": 2.4}


def minmax(sample: Sample, spec: QSpec) -> Range:
    """[min, max]: nothing is clipped."""
    del spec
    return sample.low, sample.high


def avg(sample: Sample, spec: QSpec) -> Range:
    """The extremes of each image, averaged over all images (Distiller's AVG); of weights minmax."""
    del spec
    return sample.mean_low, sample.mean_high


def percentile(sample: Sample, spec: QSpec, *, percentile: float = 99.99) -> Range:
    """The smallest range with at most (100 − percentile) % of the values outside at each end.

    Values of a histogram are known up to the width of a bin.
    """
    del spec
    if not 50 < percentile <= 100:
        raise SubbyteError(f"percentile is {percentile}: it must be above 50 and at most 100")
    order = sample.values.argsort(dim=1)
    values = sample.values.gather(1, order).contiguous()
    counts = torch.ones_like(values) if sample.counts is None else sample.counts.gather(1, order)
    mass = counts.double().cumsum(1)
    # A hair more, so that a share which is a whole number of values is not lost to rounding.
    outside = mass[:, -1:] * ((100 - percentile) / 100) * (1 + 1e-9)
    # The first value with more than `outside` at or below it, and its mirror image from above.
    low = (mass <= outside).sum(1, keepdim=True)
    above = mass[:, -1:] - mass + counts
    high = (above > outside).sum(1, keepdim=True) - 1
    return values.gather(1, low)[:, 0], values.gather(1, high)[:, 0]


def lp(sample: Sample, spec: QSpec, *, p: float = 2.0) -> Range:
    """The range whose grid leaves the least mean error, by search over both of its ends.

    min over (l, h) of E[|Q(x; l, h) − x|^p] (Nahshan et al. 2019, "Loss Aware Post-training
    Quantization", where it is each layer's start). `p: 2` is the plain squared error.
    """
    if not 0 < p <= 10:
        raise SubbyteError(f"p is {p}: it must be above 0 and at most 10")
    return _least(sample, spec, p, sample.counts)


def mse(sample: Sample, spec: QSpec, *, p: float | None = None) -> Range:
    """The range whose grid disturbs the model's outputs least, as far as squared errors tell.

    Where the importance of each value is known, as it is for activations, the sum of importance ·
    (Q(x) − x)² is the least. Elsewhere, and with a `p` of one's own, it is `lp`, by default with an
    exponent that suits what a layer computes: 2.4 for activations, as in the MSE observers of BRECQ
    (Li et al. 2021) and QDrop (Wei et al. 2022), and 3 for weights: with less, large weights are
    clipped so much that what a layer computes is biased. docs/ranges.md has the measurement.
    """
    if p is not None:
        return lp(sample, spec, p=p)
    if sample.importance is not None:
        return _least(sample, spec, 2.0, sample.importance)
    return lp(sample, spec, p=MSE_EXPONENT["weights" if sample.counts is None else "activations"])


def _least(sample: Sample, spec: QSpec, p: float, factors: torch.Tensor | None) -> Range:
    """The range with the least Σ factor · |Q(x) − x|^p; factors: (channels, n) or all 1."""
    # In units near the largest value, so that no power of an error is lost to float32's limits.
    unit = 2.0 ** torch.maximum(-sample.low, sample.high).clamp(min=TINY).log2().floor()
    values = sample.values / unit[:, None]

    def loss(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        scale, zero_point = qparams_of(low, high, spec)
        error = torch.fake_quantize_per_channel_affine(
            values, scale, zero_point, 0, spec.low, spec.high
        ).sub_(values)
        error = error.square_() if p == 2 else error.abs_().pow_(p)
        return (error if factors is None else error.mul_(factors)).sum(1)

    low, high = search(sample.low / unit, sample.high / unit, spec, loss, errors=True)
    return low * unit, high * unit


RULES: dict[str, Callable[..., Range]] = {
    "minmax": minmax,
    "avg": avg,
    "n_std": n_std,
    "percentile": percentile,
    "mse": mse,
    "lp": lp,
    "kl": kl,
    "gauss": gauss,
    "laplace": laplace,
}


def check(name: str, options: dict[str, Any]) -> None:
    """Raise `SubbyteError` unless `name` is a rule that takes `options`."""
    _check_names(name, options)
    # The rule itself knows which numbers it takes.
    RULES[name](sample_of(torch.tensor([[-1.0, 1.0]])), QSpec(8, False), **options)


def choose(
    name: str, options: dict[str, Any], sample: Sample, spec: QSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point that the rule `name` gives for `sample`, each of shape (channels,)."""
    _check_names(name, options)
    low, high = RULES[name](sample, spec, **options)
    return qparams_of(low, high, spec)


def weighs(name: str, options: dict[str, Any]) -> bool:
    """Whether the rule `name` with `options` looks at the importance of activations."""
    return name == "mse" and options.get("p") is None


def _check_names(name: str, options: dict[str, Any]) -> None:
    if name not in RULES:
        raise unknown("range rule", name, RULES)
    known = list(inspect.signature(RULES[name]).parameters)[2:]
    for option, value in options.items():
        if option not in known:
            if not known:
                raise SubbyteError(f"range rule '{name}' has no option '{option}': it takes none")
            raise unknown(f"option of range rule '{name}'", option, known)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SubbyteError(f"{option} is {value!r}: give a number")
