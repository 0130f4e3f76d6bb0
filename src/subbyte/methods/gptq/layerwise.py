"""From layer to layer in the graph's order: what each reads on its grids, and its fit to that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from subbyte.calibration.bias_correction import bias_of
from subbyte.graph.blocks import Block, leading_to
from subbyte.methods.common.activation_cache import AT_ONCE, Values, images_of, picked, recorded
from subbyte.methods.common.hessian import Moments
from subbyte.methods.common.resume import keep, restore
from subbyte.methods.common.samples import (
    Geometry,
    as_matrices,
    as_weight,
    geometry_of,
    input_rows,
    output_rows,
    positions,
    rows_wanted,
)
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.order import Order
from subbyte.methods.gptq.row_weights import row_importance
from subbyte.methods.gptq.solution import Fit, fit
from subbyte.methods.gptq.solve import Grid
from subbyte.numerics import ranges
from subbyte.numerics.fake_quantize import FakeQuantize, State
from subbyte.numerics.qspec import along
from subbyte.placement.simulation import Captured, Layer, QuantizedTensor
from subbyte.utils.allocator import give_back
from subbyte.utils.progress import Progress

HELD_OUT = 5  # of every so many portions of images, one is held out to judge by


@dataclass(frozen=True)
class Sampling:
    """Rows taken: at least so many of each image, and so many for each input of a layer in all."""

    least: int = 16
    share: int = 8


@dataclass
class Walk:
    """A region on its way: the values of what is read further on, and the layers not fitted yet.

    importance: what a squared error counts in each row of a layer's outputs. biases: those that
    were changed, with what they were.
    """

    captured: Captured
    region: str
    store: Store
    sampling: Sampling
    order: Order
    generator: torch.Generator
    importance: dict[fx.Node, torch.Tensor]
    values: dict[fx.Node, Values]
    biases: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grids = [quantizer for _, quantizer in self.captured.quantizers()]

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """While it lasts, grids are off and biases are the model's own."""
        fitted = [bias.clone() for bias, _ in self.biases]
        for bias, own in self.biases:
            bias.copy_(own)
        for grid in self.grids:
            grid.state = State.OFF
        try:
            yield
        finally:
            for grid in self.grids:
                grid.state = State.QUANTIZE
            for (bias, _), value in zip(self.biases, fitted, strict=True):
                bias.copy_(value)

    def keep(
        self, wholes: list[torch.Tensor], outputs: list[torch.Tensor], chosen: slice, count: int
    ) -> None:
        """Put some images' outputs where those of all are, which is made for the first."""
        for i, output in enumerate(outputs):
            if len(wholes) <= i:
                wholes.append(self.store.empty((count, *output.shape[1:]), output.dtype))
            wholes[i][chosen] = output
        self.store.let_go()


def held_out(count: int) -> torch.Tensor:
    """Which of so many images judge layers and are not fitted to; none, where there are few."""
    if count < HELD_OUT:
        return torch.zeros(0, dtype=torch.int64)
    judging = _portions(count)[HELD_OUT - 1 :: HELD_OUT]
    return torch.cat([torch.arange(part.start, part.stop) for part in judging])


def fit_layers(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    cache: int,
    sampling: Sampling,
    progress: Progress,
    resume: Path | None = None,
) -> None:
    """Fit every weight on a grid to what its layer reads on its grids, layer by layer.

    All grids have ranges. How it went is noted in `captured.facts.blocks`. cache: bytes. resume: a
    folder to which what is found for each layer is written, and from which it is taken if it is
    there already.
    """
    device = next(captured.parameters()).device
    store = Store(cache, device)
    orders = {region: Order(captured, region) for region in captured.region_names}
    importance = _importance(captured, orders, batches, progress)
    walks = [
        _begin(captured, order, batches, store, sampling, importance) for order in orders.values()
    ]
    give_back()
    for walk in walks:
        if walk.region != captured.region_names[0]:
            # What it reads on grids is known now; in float it was before biases were changed.
            given = recorded(captured, walk.region, batches, store, State.QUANTIZE)
            walk.values = {
                node: Values(value.exact, given[node].quantized)
                if _alike(value.exact, given[node].quantized)
                else value
                for node, value in walk.values.items()
            }
        captured.set_state(State.QUANTIZE)
        for i, layer in enumerate(progress.track(walk.order.layers, "fitting layers")):
            key = f"fitting {walk.region} {i}".replace(" ", "-")
            captured.facts.blocks.append(_settled(walk, layer, resume, key))
    for _, quantizer in captured.quantizers("weight"):
        quantizer.instead = None
    captured.set_state(State.QUANTIZE)


def _begin(
    captured: Captured,
    order: Order,
    batches: Iterable[tuple[Any, ...]],
    store: Store,
    sampling: Sampling,
    importance: dict[fx.Node, torch.Tensor],
) -> Walk:
    """A region before anything is fitted, with what it reads in float."""
    generator = torch.Generator().manual_seed(captured.recipe.seed)
    values = recorded(captured, order.region, batches, store)
    return Walk(captured, order.region, store, sampling, order, generator, importance, values)


def _alike(one: Any, other: Any) -> bool:
    return getattr(one, "shape", None) == getattr(other, "shape", None)


def _importance(
    captured: Captured,
    orders: dict[str, Order],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[fx.Node, torch.Tensor]:
    """What a squared error in each row of each layer's outputs counts, (images, rows)."""
    layers: dict[str, dict[fx.Node, Geometry]] = {region: {} for region in orders}
    for region, order in orders.items():
        for layer in order.layers:
            node = order.nodes[layer.name]
            layers[region][node] = geometry_of(node, captured.weight(order.weight(layer)))
    return row_importance(captured, layers, batches, progress)


@torch.no_grad()
def _settled(walk: Walk, layer: Layer, resume: Path | None, key: str) -> dict[str, Any]:
    """Give a layer what is kept of it or what is found now, go on to what follows, and note it."""
    captured, order = walk.captured, walk.order
    quantizer, weight = (
        captured.quantizer(order.weight(layer)),
        captured.weight(order.weight(layer)),
    )
    bias = bias_of(captured.region(walk.region), order.nodes[layer.name])
    if bias is not None:
        walk.biases.append((bias, bias.clone()))
    random = walk.generator.get_state()  # where the rows of the next layer are drawn from
    kept = {"random": random} | ({} if bias is None else {"bias": bias})
    note = None if resume is None else restore(resume, key, [quantizer], kept)
    partner = order.partner(order.nodes[layer.name])
    order.fitted(layer)
    fresh = [n for n in order.frontier() if n not in walk.values]
    if note is None:
        started = time.perf_counter()
        found = _fit(walk, layer, bias, partner, fresh)
        seconds = round(time.perf_counter() - started, 3)
        note = {"block": layer.name, "seconds": seconds, "fell_back": found is None}
        if found is None:
            note["why"] = "nothing better than rounding was found"
        else:
            note |= {"damping": found.damping, "gain": round(found.gain, 3)}
        if resume is not None:
            kept["random"] = walk.generator.get_state()
            keep(resume, key, [quantizer], note, kept)
    else:
        walk.generator.set_state(random)
        _in_float(walk, fresh)
    quantizer.hold(quantizer.quantize(weight))
    _advance(walk, fresh)
    return note


def _fit(
    walk: Walk,
    layer: Layer,
    bias: torch.Tensor | None,
    partner: fx.Node | None,
    fresh: list[fx.Node],
) -> Fit | None:
    """Fit one layer and give it what was found; the float values of the nodes `fresh` are kept."""
    captured, order = walk.captured, walk.order
    node, tensor = order.nodes[layer.name], order.weight(layer)
    quantizer, weight = captured.quantizer(tensor), captured.weight(tensor)
    geometry = geometry_of(node, weight)
    seen, held = _moments(walk, node, as_matrices(weight, geometry), geometry, partner, fresh)
    rounded = as_matrices(quantizer.quantize(weight), geometry)
    found = None
    if seen.count and held.count:
        found = fit(
            seen,
            held,
            as_matrices(weight, geometry),
            rounded,
            lambda w: _grid(tensor, quantizer, w),
            centred=bias is not None,
            single=quantizer.spec.axis is None,
        )
    if found is not None:
        _give(quantizer, weight, found, geometry)
    if bias is not None and seen.count:
        best = seen.bias(rounded) if found is None or found.bias is None else found.bias
        bias.copy_(best.reshape(-1))
    return found


def _moments(
    walk: Walk,
    node: fx.Node,
    matrices: torch.Tensor,
    geometry: Geometry,
    partner: fx.Node | None,
    fresh: list[fx.Node],
) -> tuple[Moments, Moments]:
    """What a layer reads on its grids and should give for that: to fit to, and to judge by.

    Meanwhile the float values of the nodes `fresh` are kept.
    """
    extra = () if partner is None else (partner,)
    known = set(walk.values)
    exact = _part(walk, (node, *extra, *fresh), known)
    given = _part(walk, (_read_by(node), *extra), known)
    count = images_of([v.exact for v in exact.values])
    per_image = rows_wanted(matrices.shape[2], count, walk.sampling.least, walk.sampling.share)
    seen, held = Moments.none(matrices), Moments.none(matrices)
    wholes: list[torch.Tensor] = []
    for i, chosen in enumerate(_portions(count)):
        with walk.in_float():
            target, *rest = exact.run(chosen, count, quantized=False)
        inputs, *others = given.run(chosen, count, quantized=True)
        if partner is not None:
            target = target + (rest.pop(0) - others[0])
        total = positions(target, geometry)
        rows = torch.randperm(total, generator=walk.generator).to(target.device)
        rows = rows[: per_image * (chosen.stop - chosen.start)]
        x, t = input_rows(inputs, rows, geometry), output_rows(target, rows, geometry)
        weights = None
        if len(walk.importance.get(node, ())) == count:
            weights = walk.importance[node][chosen].reshape(-1)[rows]
        if count >= HELD_OUT:  # other images judge
            (held if i % HELD_OUT == HELD_OUT - 1 else seen).add(x, t, weights)
        else:
            first = torch.arange(len(rows), device=rows.device) < len(rows) // HELD_OUT
            for moments, some in ((held, first), (seen, ~first)):
                moments.add(x[some], t[some], None if weights is None else weights[some])
        walk.keep(wholes, rest, chosen, count)
    for n, whole in zip(fresh, wholes, strict=True):
        walk.values[n] = Values(whole, whole)
    return seen, held


def _in_float(walk: Walk, fresh: list[fx.Node]) -> None:
    """Compute what the nodes `fresh` give in the float network."""
    for n, whole in zip(fresh, _computed(walk, fresh, quantized=False), strict=True):
        walk.values[n] = Values(whole, whole)


def _advance(walk: Walk, fresh: list[fx.Node]) -> None:
    """Compute what the nodes `fresh` give behind quantized layers, and drop what is not read."""
    for n, whole in zip(fresh, _computed(walk, fresh, quantized=True), strict=True):
        walk.values[n] = Values(walk.values[n].exact, whole)
    needed = set(walk.order.frontier())
    walk.values = {n: v for n, v in walk.values.items() if n in needed}


def _computed(walk: Walk, fresh: list[fx.Node], *, quantized: bool) -> list[torch.Tensor]:
    """What each of the nodes `fresh` gives for all images, on the grids or in the float network."""
    if not fresh:
        return []
    part = _part(walk, tuple(fresh), set(walk.values) - set(fresh))
    count = images_of([v.exact for v in part.values])
    wholes: list[torch.Tensor] = []
    for chosen in _portions(count):
        with nullcontext() if quantized else walk.in_float():
            outputs = part.run(chosen, count, quantized=quantized)
        walk.keep(wholes, outputs, chosen, count)
    return wholes


@dataclass(frozen=True)
class _Part:
    """A part of the region from nodes whose values are known to some others."""

    module: fx.GraphModule
    values: list[Values]
    device: torch.device

    def run(self, chosen: slice, count: int, *, quantized: bool) -> list[torch.Tensor]:
        """What the nodes give for some of `count` images, in the state in which the grids are."""
        known = [v.quantized if quantized else v.exact for v in self.values]
        return list(self.module(*picked(known, chosen, count, self.device)))


def _part(walk: Walk, outputs: tuple[fx.Node, ...], known: set[fx.Node]) -> _Part:
    inputs = walk.order.sources(list(outputs), known)
    module = walk.captured.region(walk.region)
    block = leading_to(walk.captured, Block("", walk.region, module, tuple(inputs), ()), outputs)
    return _Part(block.module, [walk.values[n] for n in inputs], walk.store.device)


def _portions(count: int) -> list[slice]:
    """All images in portions, at least as many as there have to be for some to be held out."""
    size = min(AT_ONCE, max(1, count // HELD_OUT))
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def _read_by(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _grid(tensor: QuantizedTensor, quantizer: FakeQuantize, w: torch.Tensor) -> Grid:
    """The grid that the tensor's own rule gives for weights (groups, inputs, outputs)."""
    groups, _, outputs = w.shape
    spec = quantizer.spec
    each = w.transpose(1, 2).reshape(groups * outputs, -1)
    sample = ranges.sample_of(each if spec.axis is not None else each.reshape(1, -1))
    scale, zero_point = ranges.choose(tensor.rule.name, tensor.rule.options, sample, spec)
    shape = (groups, outputs)
    return Grid(
        scale.expand(groups * outputs).reshape(shape).contiguous(),
        zero_point.to(scale.dtype).expand(groups * outputs).reshape(shape).contiguous(),
        spec.low,
        spec.high,
    )


def _give(quantizer: FakeQuantize, weight: torch.Tensor, found: Fit, geometry: Geometry) -> None:
    """Let a quantizer give exactly the weights that were found."""
    scale, zero_point = found.scale.reshape(-1), found.zero_point.reshape(-1)
    if quantizer.spec.axis is None:
        scale, zero_point = scale[:1], zero_point[:1]
    quantizer.scale.copy_(scale)
    quantizer.zero_point.copy_(zero_point)
    integers = as_weight(found.integers, weight, geometry)
    quantizer.offset = integers - weight / along(quantizer.scale, weight, quantizer.spec.axis)
