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
from subbyte.reconstruction.learn import Lesson, learn
from subbyte.reconstruction.plan import Plan
from subbyte.reconstruction.store import Store
from subbyte.reconstruction.values import Values, recorded, run, states


def reconstruct(
    captured: Captured,
    batches: Iterable[tuple[Any, ...]],
    plan: Plan,
    *,
    cache_memory: float,
    seed: int,
    progress: Progress,
    description: str,
    folder: Path | None = None,
) -> None:
    """Learn one block after the other by `plan`; each reads what those before it give.

    cache_memory: GB of what blocks read and give that are kept in memory. All grids have ranges.
    How it went is noted in `captured.facts.blocks`.
    """
    device = next(captured.parameters()).device
    done: set[FakeQuantize] = set()  # a grid that several blocks share is learned in the first one
    for region in captured.region_names:
        store = Store(int(cache_memory * 2**30), device, folder)
        values = recorded(captured, region, batches, store)
        blocks = find_blocks(captured, region)
        for i, block in enumerate(progress.track(blocks, description)):
            started = time.perf_counter()
            generator = torch.Generator().manual_seed(seed * 100_003 + i)
            well = _learn_block(captured, block, values, plan, done, generator, store)
            seconds = round(time.perf_counter() - started, 3)
            captured.facts.blocks.append(
                {"block": block.name, "seconds": seconds, "fell_back": not well}
            )
            values |= _results(captured, block, values, plan, store)
            later = {node for other in blocks[i + 1 :] for node in other.inputs}
            values = {node: value for node, value in values.items() if node in later}
    captured.set_state(State.QUANTIZE)


def _learn_block(
    captured: Captured,
    block: Block,
    values: dict[fx.Node, Values],
    plan: Plan,
    done: set[FakeQuantize],
    generator: torch.Generator,
    store: Store,
) -> bool:
    activations = State.QUANTIZE if plan.activations else State.OFF
    well = True
    for unit in single_layers(captured, block) if plan.layers else [block]:
        inputs = _inputs(captured, block, unit, values, activations, store)
        with states(captured, unit, State.OFF, State.OFF):
            targets = run(unit, [value.exact for value in inputs], store)
        grids = [q for _, q in unit.tensors(captured, "activation") if q not in done]
        done.update(grids)
        with states(captured, unit, State.QUANTIZE, activations):
            well &= learn(captured, unit, Lesson(inputs, targets), grids, plan, generator)
        del inputs, targets
    return well


def _inputs(
    captured: Captured,
    block: Block,
    unit: Block,
    values: dict[fx.Node, Values],
    activations: State,
    store: Store,
) -> list[Values]:
    """What a block, or a layer in it, reads in the float network and behind quantized layers."""
    given = [values[node] for node in block.inputs]
    if unit is block:
        return given
    part = leading_to(captured, block, unit.inputs)
    with states(captured, part, State.OFF, State.OFF):
        exact = run(part, [value.exact for value in given], store)
    with states(captured, part, State.QUANTIZE, activations):
        quantized = run(part, [value.quantized for value in given], store)
    return [Values(a, b) for a, b in zip(exact, quantized, strict=True)]


def _results(
    captured: Captured, block: Block, values: dict[fx.Node, Values], plan: Plan, store: Store
) -> dict[fx.Node, Values]:
    given = [values[node] for node in block.inputs]
    with states(captured, block, State.OFF, State.OFF):
        exact = run(block, [value.exact for value in given], store)
    activations = State.QUANTIZE if plan.activations else State.OFF
    with states(captured, block, State.QUANTIZE, activations):
        quantized = run(block, [value.quantized for value in given], store)
    return {n: Values(a, b) for n, a, b in zip(block.outputs, exact, quantized, strict=True)}
