"""From block to block: what each reads and should give, its lesson, and what it gives then."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from subbyte.graph.blocks import Block, find_blocks, leading_to, single_layers
from subbyte.methods.common.activation_cache import Values, recorded, run, states
from subbyte.methods.common.resume import keep, restore
from subbyte.methods.common.store import Store
from subbyte.methods.reconstruction.fisher import importance
from subbyte.methods.reconstruction.learn import Lesson, learn
from subbyte.methods.reconstruction.settings import Plan
from subbyte.numerics.fake_quantize import FakeQuantize, State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress


@dataclass(frozen=True)
class Walk:
    """What goes from block to block. done: grids whose step sizes are learned already."""

    captured: Captured
    batches: Iterable[tuple[Any, ...]]
    plan: Plan
    store: Store
    done: set[FakeQuantize] = field(default_factory=set)


def reconstruct(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    plan: Plan,
    progress: Progress,
    resume: Path | None = None,
) -> None:
    """Learn one block after the other by `plan`; each reads what those before it give.

    All grids have ranges. How it went is noted in `captured.facts.blocks`. resume: a folder to
    which each finished block is written, and from which those are taken that are there already.
    """
    device = next(captured.parameters()).device
    done: set[FakeQuantize] = set()  # a grid that several blocks share is learned in the first one
    for region in captured.region_names:
        store = Store(int(plan.cache_memory * 2**30), device)
        walk = Walk(captured, batches, plan, store, done)
        values = recorded(captured, region, batches, store, plan.activation_state)
        blocks = find_blocks(captured, region)
        for i, block in enumerate(progress.track(blocks, plan.description)):
            exact = _exact(walk, block, [values[node] for node in block.inputs])
            key = f"{plan.description} {region} {i}".replace(" ", "-")
            grids = [quantizer for _, quantizer in block.tensors(captured)]
            note = None if resume is None else restore(resume, key, grids)
            if note is None:
                started = time.perf_counter()
                generator = torch.Generator().manual_seed(captured.recipe.seed * 100_003 + i)
                well = _learn_block(walk, block, values, exact, generator)
                seconds = round(time.perf_counter() - started, 3)
                note = {"block": block.name, "seconds": seconds, "fell_back": not well}
                if not well:
                    note["why"] = "its loss was no number"
                if resume is not None:
                    keep(resume, key, grids, note)
            done.update(grids)
            captured.facts.blocks.append(note)
            values |= _results(walk, block, values, exact)
            later = {node for other in blocks[i + 1 :] for node in other.inputs}
            values = {node: value for node, value in values.items() if node in later}
    captured.set_state(State.QUANTIZE)


def _learn_block(
    walk: Walk,
    block: Block,
    values: dict[fx.Node, Values],
    exact: list[torch.Tensor],
    generator: torch.Generator,
) -> bool:
    """Learn a block, which gives `exact` in float, or its layers; return whether all went well."""
    well, captured, plan = True, walk.captured, walk.plan
    for unit in single_layers(captured, block) if plan.layers else [block]:
        inputs = _inputs(walk, block, unit, values)
        targets = exact if unit is block else _exact(walk, unit, inputs)
        factors: list[torch.Tensor] = []
        if plan.fisher:
            factors = importance(captured, unit, walk.batches, len(targets[0]), walk.store)
        grids = [q for _, q in unit.tensors(captured, "activation") if q not in walk.done]
        walk.done.update(grids)
        with states(captured, unit, State.QUANTIZE, plan.activation_state):
            lesson = Lesson(inputs, targets, factors)
            well &= learn(captured, unit, lesson, grids, plan, generator)
        del inputs, targets, factors, lesson
    return well


def _exact(walk: Walk, block: Block, inputs: list[Values]) -> list[torch.Tensor]:
    """What a block gives in the float network."""
    with states(walk.captured, block, State.OFF, State.OFF):
        return run(block, [value.exact for value in inputs], walk.store)


def _inputs(walk: Walk, block: Block, unit: Block, values: dict[fx.Node, Values]) -> list[Values]:
    """What a block, or a layer in it, reads in the float network and behind quantized layers."""
    given = [values[node] for node in block.inputs]
    if unit is block:
        return given
    part = leading_to(walk.captured, block, unit.inputs)
    results = _results(walk, part, values, _exact(walk, part, given))
    return [results[node] for node in unit.inputs]


def _results(
    walk: Walk, block: Block, values: dict[fx.Node, Values], exact: list[torch.Tensor]
) -> dict[fx.Node, Values]:
    """What a block gives, `exact` in float, and on its grids behind quantized blocks."""
    with states(walk.captured, block, State.QUANTIZE, walk.plan.activation_state):
        quantized = run(block, [values[node].quantized for node in block.inputs], walk.store)
    return {n: Values(a, b) for n, a, b in zip(block.outputs, exact, quantized, strict=True)}
