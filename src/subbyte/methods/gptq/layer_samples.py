"""What a layer reads behind quantizers and should give for that, in samples of all images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from subbyte.graph.batch import EVERY, is_held_out
from subbyte.graph.output_loss import OutputLoss
from subbyte.methods.common.hessian import HessianAccumulator
from subbyte.methods.common.samples import (
    Geometry,
    input_rows,
    output_rows,
    positions,
    rows_wanted,
)
from subbyte.methods.gptq.chunks import chunks
from subbyte.methods.gptq.order import Operand
from subbyte.methods.gptq.region_values import Collected, RegionValues

ROWS_OF_DETECTORS = 20_480  # of a layer, of all images together
# Of the mean weight, what each row counts besides: where a fit may do anything with the background,
# scores rise there, which the weights, being of first order, do not see.
BACKGROUND = 0.3


@dataclass(frozen=True)
class Sampling:
    """How many rows are taken of a layer.

    Attributes:
        least: At least so many of each image.
        share: At least so many of all images for each input of the layer.
        total: At least so many of all images.
        by_weight: Rows that count more are drawn more often, and count as much less then: where few
            rows have most of the weight, hardly one of them would be drawn by chance.
    """

    least: int = 16
    share: int = 8
    total: int = 0
    by_weight: bool = False


def sampling_for(loss: OutputLoss, least: int = Sampling.least) -> Sampling:
    """How rows of a network's layers are taken.

    Nearly all places of an image are background to a detector, and an error there costs next to
    nothing. So it gets more rows, drawn by what they count.

    Args:
        loss: The network's output loss.
        least: At least so many rows of each image.
    """
    if not loss.of_objects:
        return Sampling(least)
    return Sampling(least, total=ROWS_OF_DETECTORS, by_weight=True)


@dataclass
class LayerSamples:
    """Sums over a layer's samples.

    Attributes:
        train: Of the samples that it is fitted to.
        held_out: Of those that judge.
    """

    train: HessianAccumulator
    held_out: HessianAccumulator


@dataclass(frozen=True)
class SampledLayer:
    """A layer of which samples are taken.

    Attributes:
        node: In the float model's graph.
        matrices: Its float weight, (groups, outputs, inputs of a group).
        geometry: How it reads its input.
        branch: What is added to its output and is known already; `None`: nothing.
        row_weights: What a squared error in each row counts, (images, rows); `None`: all alike.
    """

    node: fx.Node
    matrices: torch.Tensor
    geometry: Geometry
    branch: Operand | None
    row_weights: torch.Tensor | None


def collect_samples(
    layer: SampledLayer,
    values: RegionValues,
    fresh: Sequence[fx.Node],
    sampling: Sampling,
    generator: torch.Generator,
) -> LayerSamples:
    """Draw rows of what a layer reads in the simulation, and of what it gives in the float model.

    Where the branch that is added to its output is quantized already, the layer's targets make up
    for what that lost.

    Args:
        layer: The layer.
        values: Of its region.
        fresh: Nodes whose float values are computed meanwhile and kept.
        sampling: How many rows.
        generator: By which they are drawn.
    """
    branches = [] if layer.branch is None else [layer.branch]
    exact = values.exact_part([layer.node, *[x.node for x in branches], *fresh])
    given = values.quantized_part([Operand(layer.node, 0), *branches])
    count = exact.count
    least = max(sampling.least, math.ceil(sampling.total / max(count, 1)))
    each = rows_wanted(layer.matrices.shape[2], count, least, sampling.share)
    samples = LayerSamples(*[HessianAccumulator.none(layer.matrices) for _ in range(2)])
    collected = Collected(values.store, count)
    for i, chosen in enumerate(chunks(count)):
        target, *rest = exact.run(chosen)
        inputs, *others = given.run(chosen)
        if branches:
            target = target + (rest.pop(0) - others[0])
        total = positions(target, layer.geometry)
        wanted, weights = each * (chosen.stop - chosen.start), _weights(layer, chosen, count)
        factors: torch.Tensor | None
        if sampling.by_weight and weights is not None and wanted < total:
            weights = (weights + BACKGROUND * weights.mean()) / (1 + BACKGROUND)
            rows, factors = drawn_by_weight(weights, wanted, generator)
        else:
            rows = torch.randperm(total, generator=generator).to(target.device)[:wanted]
            factors = None if weights is None else weights[rows]
        x = input_rows(inputs, rows, layer.geometry)
        t = output_rows(target, rows, layer.geometry)
        _add(samples, x, t, factors, i, few=count < EVERY)
        collected.put(rest, chosen)
    values.take_exact(fresh, collected.values)
    return samples


def drawn_by_weight(
    weights: torch.Tensor, wanted: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and what each counts so that weighted sums over them are in expectation those over all.

    Half of the draws go by the weights, half by chance, so that no row counts more than twice the
    mean. Draws are stratified, one in each of as many equal parts.

    Args:
        weights: What each row counts, (rows,).
        wanted: How many draws; a row may be drawn again.
        generator: By which they are drawn.
    """
    weights = weights.double()
    mean = weights.mean()
    if not mean > 0:
        mean = torch.ones_like(mean)
    ends = (weights / mean + 1).cumsum(0)
    places = torch.arange(wanted) + torch.rand(wanted, generator=generator, dtype=torch.float64)
    places = places[torch.randperm(wanted, generator=generator)]
    places = places.to(ends.device) * (ends[-1] / wanted)
    rows = torch.searchsorted(ends, places, right=True).clamp(max=len(weights) - 1)
    share = (weights[rows] / mean + 1) / ends[-1]
    return rows, (weights[rows] / (share * len(weights))).float()


def _weights(layer: SampledLayer, chosen: slice, count: int) -> torch.Tensor | None:
    if layer.row_weights is None or len(layer.row_weights) != count:
        return None
    return layer.row_weights[chosen].reshape(-1)


def _add(
    samples: LayerSamples,
    x: torch.Tensor,
    t: torch.Tensor,
    weights: torch.Tensor | None,
    chunk: int,
    *,
    few: bool,
) -> None:
    """Add rows to fit to or to judge by: a whole chunk, or some of each where images are few."""
    if not few:
        (samples.held_out if is_held_out(chunk) else samples.train).add(x, t, weights)
        return
    first = torch.arange(len(x), device=x.device) < len(x) // EVERY
    for accumulator, some in ((samples.held_out, first), (samples.train, ~first)):
        accumulator.add(x[some], t[some], None if weights is None else weights[some])
