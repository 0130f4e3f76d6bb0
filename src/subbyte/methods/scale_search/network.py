"""The loss of a network at many scales, without running again what has not changed.

Around the best setting so far, what is alive at the boundaries of blocks is kept for all images.
Another setting is run from the first block with a tensor that differs, some images at a time, and
no further than it takes to see that it is worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import fx

from subbyte.graph.blocks import Block, leading_to
from subbyte.graph.flow import WHOLE
from subbyte.methods.common.simulated_blocks import blocks_of
from subbyte.methods.scale_search.chunks import Chunk, NodeValues
from subbyte.methods.scale_search.scale_vector import ScaleVector
from subbyte.placement.simulation import Simulation

AT_LEAST = 4  # chunks before a setting is given up
SURE = 4.0  # standard errors of the mean difference that it must be worse by

ChunkLoss = Callable[[Any, Chunk], torch.Tensor]  # of a model's outputs for a chunk


@torch.no_grad()
def mean_loss(simulation: Simulation, chunks: Iterable[Chunk], loss: ChunkLoss) -> float:
    """The loss of a network over all images; infinite where it is NaN.

    Args:
        simulation: The network.
        chunks: The images.
        loss: Of the outputs for a chunk.
    """
    total, images = 0.0, 0
    for chunk in chunks:
        total += float(loss(simulation.raw(*chunk.args), chunk)) * chunk.images
        images += chunk.images
    return total / images if math.isfinite(total) else math.inf


class ScaledNetwork:
    """A simulation with its scales at the best of all settings that were evaluated.

    A model of several regions is run anew each time, and what its heads give is compared.

    Attributes:
        vector: The scales.
        best: The best setting so far.
        value: The mean loss there.
        blocks: The whole model's blocks; none of a model of several regions.
        first: For each number of the vector, the first block that its tensor stands in.
        evaluated: Images times blocks that were run.
    """

    def __init__(
        self,
        simulation: Simulation,
        vector: ScaleVector,
        chunks: list[Chunk],
        loss: ChunkLoss,
        memory: int,
    ) -> None:
        """A network at the setting of now.

        Args:
            simulation: All its tensors have parameters.
            vector: Of this simulation.
            chunks: The images; what is kept of each is kept in it.
            loss: Of the outputs for a chunk.
            memory: Bytes that the values kept may take; boundaries are left out until they fit,
                and blocks behind them are run again.
        """
        self.vector, self.chunks, self.loss = vector, chunks, loss
        self.best, self.boundaries, self.evaluated = vector.point.copy(), {0}, 0
        self.simulation = simulation
        if simulation.region_names == WHOLE:
            self._cut(memory // 2 // len(chunks))
        else:
            self.blocks, self.first = list[Block](), [0] * len(vector.entries)
        for chunk in chunks:
            chunk.kept, chunk.loss = self._run(chunk, 0)
        self.value = _mean([chunk.loss for chunk in chunks], chunks)

    def _cut(self, memory: int) -> None:
        """Find the blocks, and which boundaries to keep in so much memory for a chunk."""
        self.region = self.simulation.region("")
        self.placeholders = [n for n in self.region.graph.nodes if n.op == "placeholder"]
        self.results = next(n for n in reversed(self.region.graph.nodes) if n.op == "output")
        self.blocks = _covering(self.simulation, self.placeholders, self.results)
        self.alive = _alive(self.blocks, self.results)
        self.first = _first_blocks(self.simulation, self.blocks, self.vector)
        first = self._run(self.chunks[0], 0, every=True)[0]
        self.boundaries = _fitting(first, memory)
        self.evaluated = 0

    def evaluate(self, point: np.ndarray) -> float:
        """The mean loss at `point`, which becomes the best setting if it is lower than before.

        Where the chunks run so far leave no doubt that it is higher, it is estimated from them.
        """
        begin = min((self.first[i] for i in np.flatnonzero(point != self.best)), default=0)
        begin = max(i for i in self.boundaries if i <= begin)
        self.vector.apply(point)
        found: list[tuple[dict[int, NodeValues], float]] = []
        for chunk in self.chunks:
            found.append(self._run(chunk, begin))
            if _is_worse([f[1] - c.loss for f, c in zip(found, self.chunks, strict=False)]):
                break
        run = self.chunks[: len(found)]
        gains = [f[1] - c.loss for f, c in zip(found, run, strict=True)]
        value = self.value + _mean(gains, run)
        if not math.isfinite(value):
            return math.inf
        if len(found) == len(self.chunks) and value < self.value:
            for chunk, (kept, loss) in zip(self.chunks, found, strict=True):
                chunk.kept |= kept
                chunk.loss = loss
            self.value, self.best = value, point.copy()
        return value

    def settle(self) -> None:
        """Put the scales back to the best setting."""
        self.vector.apply(self.best)

    @torch.no_grad()
    def _run(
        self, chunk: Chunk, begin: int, *, every: bool = False
    ) -> tuple[dict[int, NodeValues], float]:
        """What is alive in front of the blocks from `begin` on, as far as kept, and the loss."""
        if not self.blocks:
            outputs = self.simulation.raw(*chunk.args)
            return {}, float(self.loss(outputs, chunk))
        values = chunk.kept.get(begin) or self._inputs(chunk.args)
        kept: dict[int, NodeValues] = {begin: values} if begin == 0 else {}
        for i, block in enumerate(self.blocks[begin:], begin):
            if i > begin and (every or i in self.boundaries):
                kept[i] = values
            outputs = block.module(*[values[node.name] for node in block.inputs])
            given = zip(block.outputs, outputs, strict=True)
            values = values | {node.name: x for node, x in given}
            values = {name: x for name, x in values.items() if name in self.alive[i + 1]}
            self.evaluated += chunk.images
        leaves = fx.node.map_arg(self.results.args[0], lambda node: values[node.name])
        outputs = self.region.graph.process_outputs(leaves)
        return kept, float(self.loss(outputs, chunk))

    def _inputs(self, args: tuple[Any, ...]) -> NodeValues:
        leaves = self.region.graph.process_inputs(*args)
        return {n.name: x for n, x in zip(self.placeholders, leaves, strict=True)}


def _covering(simulation: Simulation, placeholders: list[fx.Node], results: fx.Node) -> list[Block]:
    """The region's blocks; one with all of it, where some result comes from none of them."""
    blocks = blocks_of(simulation, "")
    given = {node for block in blocks for node in block.outputs} | set(placeholders)
    if set(results.all_input_nodes) <= given:
        return blocks
    region = simulation.region("")
    whole = Block("", "", region, tuple(placeholders), ())
    return [leading_to(region, whole, tuple(results.all_input_nodes))]


def _alive(blocks: list[Block], results: fx.Node) -> list[set[str]]:
    """For each block, and for the end, the nodes that it or what follows reads."""
    needed = {node.name for node in results.all_input_nodes}
    alive = [needed]
    for block in reversed(blocks):
        needed = needed | {node.name for node in block.inputs}
        alive.insert(0, needed)
    return alive


def _first_blocks(simulation: Simulation, blocks: list[Block], vector: ScaleVector) -> list[int]:
    """For each number of the vector, the first block that its tensor stands in."""
    first: dict[str, int] = {}
    for i, block in enumerate(blocks):
        for tensor, _ in simulation.quantizers_in(block.module):
            first.setdefault(tensor.key, i)
    return [first.get(entry.key, 0) for entry in vector.entries]


def _fitting(values: dict[int, NodeValues], limit: int) -> set[int]:
    """The boundaries to keep so that their values take at most `limit` bytes: all, or every k-th.

    The one in front of all blocks always is kept: it is the images themselves.
    """
    sizes = {
        i: sum(x.nbytes for x in alive.values() if isinstance(x, torch.Tensor))
        for i, alive in values.items()
        if i > 0
    }
    step = 1
    while sum(size for i, size in sizes.items() if i % step == 0) > limit:
        step += 1
    return {0} | {i for i in sizes if i % step == 0}


def _is_worse(gains: list[float]) -> bool:
    if not math.isfinite(gains[-1]):
        return True
    if len(gains) < AT_LEAST:
        return False
    error = float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
    return float(np.mean(gains)) > SURE * error


def _mean(numbers: list[float], chunks: list[Chunk]) -> float:
    images = [chunk.images for chunk in chunks]
    return float(np.average(numbers, weights=images))
