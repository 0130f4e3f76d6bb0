"""What a layer reads behind quantizers and should give for that, in samples of all images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from subbyte.graph.batch import EVERY, is_held_out
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


@dataclass(frozen=True)
class Sampling:
    """How many rows are taken of a layer.

    Attributes:
        least: At least so many of each image.
        share: At least so many of all images for each input of the layer.
        total: At least so many of all images.
    """

    least: int = 16
    share: int = 8
    total: int = 0


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
        rows = torch.randperm(total, generator=generator).to(target.device)
        rows = rows[: each * (chosen.stop - chosen.start)]
        x = input_rows(inputs, rows, layer.geometry)
        t = output_rows(target, rows, layer.geometry)
        _add(samples, x, t, _weights(layer, chosen, rows, count), i, few=count < EVERY)
        collected.put(rest, chosen)
    values.take_exact(fresh, collected.values)
    return samples


def _weights(
    layer: SampledLayer, chosen: slice, rows: torch.Tensor, count: int
) -> torch.Tensor | None:
    if layer.row_weights is None or len(layer.row_weights) != count:
        return None
    return layer.row_weights[chosen].reshape(-1)[rows]


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
