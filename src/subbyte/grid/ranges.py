"""The range rules: one function each, from a sample of values to the range a grid covers.

A rule sees weights and activations alike: `Sample.values` has one row a channel (weights) or one
row in all (activations, whose values are the centres of a histogram and `counts` their numbers).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from subbyte.errors import SubbyteError, unknown
from subbyte.grid.spec import GridSpec, grid_of

Range = tuple[torch.Tensor, torch.Tensor]

MSE_EXPONENT = {"weights": 3.0, "activations": 2.4}


@dataclass(frozen=True)
class Sample:
    """Values a range is chosen for.

    values: (channels, n). counts: (channels, n), how often each value occurs, or `None` for once.
    low, high: (channels,), exact extremes. mean_low, mean_high: (channels,), the extremes of a
    batch's images, averaged; for weights equal to the extremes.
    """

    values: torch.Tensor
    counts: torch.Tensor | None
    low: torch.Tensor
    high: torch.Tensor
    mean_low: torch.Tensor
    mean_high: torch.Tensor


def sample_of(weights: torch.Tensor) -> Sample:
    """The sample of a weight's rows, of shape (channels, n)."""
    low, high = torch.aminmax(weights, dim=1)
    return Sample(weights, None, low, high, low, high)


def minmax(sample: Sample, spec: GridSpec) -> Range:
    """[min, max]: nothing is clipped."""
    del spec
    return sample.low, sample.high


def percentile(sample: Sample, spec: GridSpec, *, percentile: float = 99.99) -> Range:
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


def mse(sample: Sample, spec: GridSpec, *, p: float | None = None) -> Range:
    """The range whose grid leaves the least mean error, by search over both of its ends.

    min over (l, h) of E[|Q(x; l, h) − x|^p]; `p: 2` is the plain squared error. By default p is
    2.4 for activations, as in the MSE observers of BRECQ (Li et al. 2021) and QDrop (Wei et al.
    2022), and 3 for weights: with less, large weights are clipped so much that what a layer
    computes is biased. docs/ranges.md has the measurement.
    """
    if p is None:
        p = MSE_EXPONENT["weights" if sample.counts is None else "activations"]
    if not 0 < p <= 10:
        raise SubbyteError(f"p is {p}: it must be above 0 and at most 10")
    if p == 2:
        return _search(sample, spec, lambda error: error.square_())
    return _search(sample, spec, lambda error: error.abs_().pow_(p))


RULES: dict[str, Callable[..., Range]] = {
    "minmax": minmax,
    "mse": mse,
    "percentile": percentile,
}


def check(name: str, options: dict[str, Any]) -> None:
    """Raise `SubbyteError` unless `name` is a rule that takes `options`."""
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
    # The rule itself knows which numbers it takes.
    RULES[name](sample_of(torch.tensor([[-1.0, 1.0]])), GridSpec(8, False), **options)


def choose(
    name: str, options: dict[str, Any], sample: Sample, spec: GridSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point that the rule `name` gives for `sample`, each of shape (channels,)."""
    check(name, options)
    low, high = RULES[name](sample, spec, **options)
    return grid_of(low, high, spec)


def _search(sample: Sample, spec: GridSpec, loss: Callable[[torch.Tensor], torch.Tensor]) -> Range:
    """The range with the least loss of the error, for all channels at once."""
    low, high = sample.low.clamp(max=0), sample.high.clamp(min=0)
    best = torch.full_like(low, float("inf"))
    best_low, best_high = low.clone(), high.clone()

    def attempt(new_low: torch.Tensor, new_high: torch.Tensor) -> None:
        scale, zero_point = grid_of(new_low, new_high, spec)
        quantized = torch.fake_quantize_per_channel_affine(
            sample.values, scale, zero_point, 0, spec.low, spec.high
        )
        error = loss(quantized.sub_(sample.values))
        total = (error if sample.counts is None else error.mul_(sample.counts)).sum(1)
        better = total < best
        best[better] = total[better]
        best_low[better] = new_low[better]
        best_high[better] = new_high[better]

    for share in torch.linspace(1.0, 0.1 if spec.bits < 8 else 0.5, 90 if spec.bits < 8 else 26):
        attempt(low * share, high * share)
    if spec.symmetric:
        return best_low, best_high
    for shares in (
        torch.linspace(0, 1.5, 16),
        *(torch.linspace(1 - s, 1 + s, 9) for s in (0.12, 0.04)),
    ):
        at_low, at_high = best_low.clone(), best_high.clone()
        for share in shares:
            attempt(at_low, at_high * share)
        at_low, at_high = best_low.clone(), best_high.clone()
        for share in shares:
            attempt(at_low * share, at_high)
    return best_low, best_high
