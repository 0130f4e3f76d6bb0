"""Block after block: what each reads and should give, and what it gives once it is learned."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from subbyte.graph.blocks import Block, leading_to
from subbyte.methods.common.activation_cache import Values, recorded, run
from subbyte.methods.common.context import Context
from subbyte.methods.common.resume import keep, restore
from subbyte.methods.common.simulated_blocks import blocks_of, float_part, layers_of
from subbyte.methods.common.store import Store
from subbyte.methods.reconstruction.fisher import fisher_diagonal
from subbyte.methods.reconstruction.learn import TrainingData, learn
from subbyte.methods.reconstruction.settings import LearningSettings
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation

BlockNotes = list[dict[str, Any]]  # how it went with each block, as plain data


@dataclass(frozen=True)
class Reconstruction:
    """What goes from block to block.

    Attributes:
        simulation: The method's own; it gets what is learned.
        batches: The calibration images.
        settings: What is learned, and how.
        context: Seed, progress, and where finished blocks are kept.
        store: Where values lie.
        learned: The keys of activations whose step sizes are learned already: one that several
            blocks share is learned in the first of them.
    """

    simulation: Simulation
    batches: Iterable[tuple[Any, ...]]
    settings: LearningSettings
    context: Context
    store: Store
    learned: set[str] = field(default_factory=set)


def reconstruct(
    simulation: Simulation,
    batches: Iterable[tuple[Any, ...]],
    settings: LearningSettings,
    context: Context,
) -> BlockNotes:
    """Learn one block after the other; each reads what those before it give.

    Args:
        simulation: The weights have parameters; activations are quantized meanwhile if they have
            some. What is learned is put into it.
        batches: The calibration images.
        settings: What is learned, and how.
        context: Seed, progress, and the folder to which each finished block is written, and from
            which those are taken that are there already.

    Returns:
        How it went with each block.
    """
    notes: BlockNotes = []
    learned: set[str] = set()
    limit, device = int(settings.cache_memory * 2**30), simulation.float_model.device
    for region in simulation.region_names:
        store = Store(limit, device)
        work = Reconstruction(simulation, batches, settings, context, store, learned)
        before = None if region == simulation.region_names[0] else simulation
        values = recorded(simulation.float_model, before, region, batches, store)
        blocks = blocks_of(simulation, region)
        for i, block in enumerate(context.progress.track(blocks, settings.description)):
            exact = _exact(work, block, [values[node.name] for node in block.inputs])
            notes.append(_finished(work, block, i, values, exact))
            learned.update(key for key, _ in _activations(work, block))
            values |= _results(work, block, values, exact)
            later = {node.name for other in blocks[i + 1 :] for node in other.inputs}
            values = {name: value for name, value in values.items() if name in later}
    return notes


def _finished(
    work: Reconstruction,
    block: Block,
    number: int,
    values: dict[str, Values],
    exact: list[torch.Tensor],
) -> dict[str, Any]:
    """Learn a block, or take what an interrupted run has kept of it; return how it went."""
    simulation, folder = work.simulation, work.context.resume
    key = f"{work.settings.description} {block.region} {number}".replace(" ", "-")
    kept = None if folder is None else restore(folder, key, work.store.device)
    if kept is not None:
        params, _, note = kept
        for owner, found in params.tensors.items():
            simulation.put(owner, found)
        return note
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(work.context.seed * 100_003 + number)
    well = _learn_block(work, block, values, exact, generator)
    seconds = round(time.perf_counter() - started, 3)
    note = {"block": block.name, "seconds": seconds, "fell_back": not well}
    if not well:
        note["why"] = "its loss was not a number"
    if folder is not None:
        now = {t.key: q.params for t, q in simulation.quantizers_in(block.module)}
        found_now = {key: params for key, params in now.items() if params is not None}
        keep(folder, key, QuantParams(found_now), note)
    return note


def _learn_block(
    work: Reconstruction,
    block: Block,
    values: dict[str, Values],
    exact: list[torch.Tensor],
    generator: torch.Generator,
) -> bool:
    """Learn a block, which gives `exact` in float, or its layers; return whether all went well."""
    well, simulation, settings = True, work.simulation, work.settings
    for unit in layers_of(simulation, block) if settings.layers else [block]:
        inputs = _inputs(work, block, unit, values)
        targets = exact if unit is block else _exact(work, unit, inputs)
        if not any(target.numel() for target in targets):
            continue  # there is nothing to learn from
        factors: list[torch.Tensor] = []
        if settings.fisher:
            model, images = simulation.float_model, len(targets[0])
            factors = fisher_diagonal(model, unit, work.batches, images, work.store)
        own = [(key, q) for key, q in _activations(work, unit) if key not in work.learned]
        work.learned.update(key for key, _ in own)
        data = TrainingData(inputs, targets, factors)
        observe = partial(_observed, work, unit.name)
        well &= learn(simulation, unit, data, [q for _, q in own], settings, generator, observe)
        del inputs, targets, factors, data
    return well


def _observed(work: Reconstruction, name: str, step: int, loss: float) -> None:
    work.context.observer.loss(work.settings.description, name, step, loss, held_out=False)


def _activations(work: Reconstruction, block: Block) -> list[tuple[str, FakeQuantize]]:
    """The activations that are quantized in a block, by key."""
    found = work.simulation.quantizers_in(block.module, "activation")
    return [(tensor.key, q) for tensor, q in found if isinstance(q, FakeQuantize)]


def _exact(work: Reconstruction, block: Block, inputs: list[Values]) -> list[torch.Tensor]:
    """What a block gives in the float network."""
    part = float_part(work.simulation, block)
    return run(part, [value.exact for value in inputs], work.store)


def _inputs(
    work: Reconstruction, block: Block, unit: Block, values: dict[str, Values]
) -> list[Values]:
    """What a block, or a layer in it, reads in the float network and behind quantized layers."""
    given = [values[node.name] for node in block.inputs]
    if unit is block:
        return given
    part = leading_to(work.simulation.region(block.region), block, unit.inputs)
    results = _results(work, part, values, _exact(work, part, given))
    return [results[node.name] for node in unit.inputs]


def _results(
    work: Reconstruction, block: Block, values: dict[str, Values], exact: list[torch.Tensor]
) -> dict[str, Values]:
    """What a block gives, `exact` in float, and quantized behind quantized blocks."""
    inputs = [values[node.name].quantized for node in block.inputs]
    quantized = run(block.module, inputs, work.store)
    return {n.name: Values(a, b) for n, a, b in zip(block.outputs, exact, quantized, strict=True)}
