"""From block to block: what each reads and should give, its lesson, and what it gives then."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx

from subbyte.graph.blocks import Block, find_blocks, leading_to, single_layers
from subbyte.graph.captured import Captured
from subbyte.grid.fake_quantize import FakeQuantize, State
from subbyte.progress import Progress
from subbyte.reconstruction.finished import keep, restore
from subbyte.reconstruction.learn import Lesson, learn
from subbyte.reconstruction.plan import Plan
from subbyte.reconstruction.store import Store
from subbyte.reconstruction.values import Values, recorded, run, states


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
        values = recorded(captured, region, batches, store)
        blocks = find_blocks(captured, region)
        for i, block in enumerate(progress.track(blocks, plan.description)):
            exact = _exact(captured, block, [values[node] for node in block.inputs], store)
            key = f"{plan.description} {region} {i}".replace(" ", "-")
            grids = [quantizer for _, quantizer in block.tensors(captured)]
            note = None if resume is None else restore(resume, key, grids)
            if note is None:
                started = time.perf_counter()
                generator = torch.Generator().manual_seed(captured.recipe.seed * 100_003 + i)
                well = _learn_block(captured, block, values, exact, plan, done, generator, store)
                seconds = round(time.perf_counter() - started, 3)
                note = {"block": block.name, "seconds": seconds, "fell_back": not well}
                if resume is not None:
                    keep(resume, key, grids, note)
            done.update(grids)
            captured.facts.blocks.append(note)
            values |= _results(captured, block, values, exact, plan, store)
            later = {node for other in blocks[i + 1 :] for node in other.inputs}
            values = {node: value for node, value in values.items() if node in later}
    captured.set_state(State.QUANTIZE)


def _learn_block(
    captured: Captured,
    block: Block,
    values: dict[fx.Node, Values],
    exact: list[torch.Tensor],
    plan: Plan,
    done: set[FakeQuantize],
    generator: torch.Generator,
    store: Store,
) -> bool:
    """Learn a block, which gives `exact` in float, or its layers; return whether all went well."""
    well = True
    for unit in single_layers(captured, block) if plan.layers else [block]:
        inputs = _inputs(captured, block, unit, values, plan, store)
        targets = exact if unit is block else _exact(captured, unit, inputs, store)
        grids = [q for _, q in unit.tensors(captured, "activation") if q not in done]
        done.update(grids)
        with states(captured, unit, State.QUANTIZE, plan.activation_state):
            well &= learn(captured, unit, Lesson(inputs, targets), grids, plan, generator)
        del inputs, targets
    return well


def _exact(
    captured: Captured, block: Block, inputs: list[Values], store: Store
) -> list[torch.Tensor]:
    """What a block gives in the float network."""
    with states(captured, block, State.OFF, State.OFF):
        return run(block, [value.exact for value in inputs], store)


def _inputs(
    captured: Captured,
    block: Block,
    unit: Block,
    values: dict[fx.Node, Values],
    plan: Plan,
    store: Store,
) -> list[Values]:
    """What a block, or a layer in it, reads in the float network and behind quantized layers."""
    given = [values[node] for node in block.inputs]
    if unit is block:
        return given
    part = leading_to(captured, block, unit.inputs)
    exact = _exact(captured, part, given, store)
    results = _results(captured, part, values, exact, plan, store)
    return [results[node] for node in unit.inputs]


def _results(
    captured: Captured,
    block: Block,
    values: dict[fx.Node, Values],
    exact: list[torch.Tensor],
    plan: Plan,
    store: Store,
) -> dict[fx.Node, Values]:
    """What a block gives, `exact` in float, and on its grids behind quantized blocks."""
    with states(captured, block, State.QUANTIZE, plan.activation_state):
        quantized = run(block, [values[node].quantized for node in block.inputs], store)
    return {n: Values(a, b) for n, a, b in zip(block.outputs, exact, quantized, strict=True)}
