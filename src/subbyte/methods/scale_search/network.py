"""The loss of a network at many settings of its grids, without running again what has not changed.

Around the best setting so far, what is alive at the boundaries of blocks is kept for all images.
Another setting is run from the first block with a grid that differs, image by image in portions,
and no further than it takes to see that it is worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from subbyte.graph.blocks import Block, find_blocks, leading_to
from subbyte.graph.flow import WHOLE
from subbyte.methods.scale_search.scale_vector import Sizes
from subbyte.placement.simulation import Captured

AT_LEAST = 4  # portions before a setting is given up
SURE = 4.0  # standard errors of the mean difference that it must be worse by

Loss = Callable[[Any, Any], torch.Tensor]  # of a model's outputs and the targets of a batch
Values = dict[fx.Node, Any]


@dataclass
class Portion:
    """Some images: the model's positional arguments, what its outputs are compared with.

    kept, loss: at the best setting so far, the values alive in front of some blocks, by their
    number, and the mean loss.
    """

    args: tuple[Any, ...]
    targets: Any
    images: int
    kept: dict[int, Values] = field(default_factory=dict)
    loss: float = math.nan


@torch.no_grad()
def mean_loss(captured: Captured, portions: Iterable[Portion], loss: Loss) -> float:
    """The loss of the network as it is, over all images; infinite where it is no number."""
    total, images = 0.0, 0
    with captured.holding_weights():
        for portion in portions:
            total += float(loss(captured.raw(*portion.args), portion.targets)) * portion.images
            images += portion.images
    return total / images if math.isfinite(total) else math.inf


class Network:
    """A captured network with its grids at the best of all settings that were evaluated.

    A model of several regions is run anew each time, and what its heads give is compared. memory:
    bytes that the values kept may take; boundaries are left out until they fit, and blocks behind
    them are run again.
    """

    def __init__(
        self, captured: Captured, sizes: Sizes, portions: list[Portion], loss: Loss, memory: int
    ) -> None:
        self.sizes, self.portions, self.loss = sizes, portions, loss
        self.best, self.boundaries, self.evaluated = sizes.point.copy(), {0}, 0
        self.captured = captured
        if captured.region_names == WHOLE:
            self._cut(captured, memory // 2 // len(portions))
        else:
            self.blocks, self.first = list[Block](), [0] * len(sizes.entries)
        for portion in portions:
            portion.kept, portion.loss = self._run(portion, 0)
        self.value = _mean([p.loss for p in portions], portions)

    def _cut(self, captured: Captured, memory: int) -> None:
        """Find the blocks, and which boundaries to keep in so much memory for a portion."""
        self.region = captured.region("")
        self.placeholders = [n for n in self.region.graph.nodes if n.op == "placeholder"]
        self.results = next(n for n in reversed(self.region.graph.nodes) if n.op == "output")
        self.blocks = _covering(captured, self.placeholders, self.results)
        self.alive = _alive(self.blocks, self.placeholders, self.results)
        self.first = _first_blocks(captured, self.blocks, self.sizes)
        first = self._run(self.portions[0], 0, every=True)[0]
        self.boundaries = _fitting(first, memory)
        self.evaluated = 0  # images times blocks, for the curious

    def evaluate(self, point: np.ndarray) -> float:
        """The mean loss at `point`, which becomes the best setting if it is lower than before.

        Where the portions run so far leave no doubt that it is higher, it is told from them.
        """
        begin = min((self.first[i] for i in np.flatnonzero(point != self.best)), default=0)
        begin = max(i for i in self.boundaries if i <= begin)
        self.sizes.apply(point)
        found: list[tuple[dict[int, Values], float]] = []
        for portion in self.portions:
            found.append(self._run(portion, begin))
            if _is_worse([f[1] - p.loss for f, p in zip(found, self.portions, strict=False)]):
                break
        run = self.portions[: len(found)]
        gains = [f[1] - p.loss for f, p in zip(found, run, strict=True)]
        value = self.value + _mean(gains, run)
        if not math.isfinite(value):
            return math.inf
        if len(found) == len(self.portions) and value < self.value:
            for portion, (kept, loss) in zip(self.portions, found, strict=True):
                portion.kept |= kept
                portion.loss = loss
            self.value, self.best = value, point.copy()
        return value

    def settle(self) -> None:
        """Put the grids back to the best setting."""
        self.sizes.apply(self.best)

    @torch.no_grad()
    def _run(
        self, portion: Portion, begin: int, *, every: bool = False
    ) -> tuple[dict[int, Values], float]:
        """What is alive in front of the blocks from `begin` on, as far as kept, and the loss."""
        if not self.blocks:
            outputs = self.captured.raw(*portion.args)
            return {}, float(self.loss(outputs, portion.targets))
        values = portion.kept.get(begin) or self._inputs(portion.args)
        kept: dict[int, Values] = {begin: values} if begin == 0 else {}
        for i, block in enumerate(self.blocks[begin:], begin):
            if i > begin and (every or i in self.boundaries):
                kept[i] = values
            outputs = block.module(*[values[node] for node in block.inputs])
            values = values | dict(zip(block.outputs, outputs, strict=True))
            values = {node: x for node, x in values.items() if node in self.alive[i + 1]}
            self.evaluated += portion.images
        leaves = fx.node.map_arg(self.results.args[0], lambda node: values[node])
        outputs = self.region.graph.process_outputs(leaves)
        return kept, float(self.loss(outputs, portion.targets))

    def _inputs(self, args: tuple[Any, ...]) -> Values:
        leaves = self.region.graph.process_inputs(*args)
        return dict(zip(self.placeholders, leaves, strict=True))


def _covering(captured: Captured, placeholders: list[fx.Node], results: fx.Node) -> list[Block]:
    """The region's blocks; one with all of it, where some result comes from none of them."""
    blocks = find_blocks(captured, "")
    given = {node for block in blocks for node in block.outputs} | set(placeholders)
    if set(results.all_input_nodes) <= given:
        return blocks
    whole = Block("", "", captured.region(""), tuple(placeholders), ())
    return [leading_to(captured, whole, tuple(results.all_input_nodes))]


def _alive(
    blocks: list[Block], placeholders: list[fx.Node], results: fx.Node
) -> list[set[fx.Node]]:
    """For each block, and for the end, the nodes that it or what follows reads."""
    needed = set(results.all_input_nodes)
    alive = [needed]
    for block in reversed(blocks):
        needed = needed | set(block.inputs)
        alive.insert(0, needed)
    return alive


def _first_blocks(captured: Captured, blocks: list[Block], sizes: Sizes) -> list[int]:
    """For each entry of the vector, the first block that its grid stands in."""
    first: dict[Any, int] = {}
    for i, block in enumerate(blocks):
        for _, quantizer in block.tensors(captured):
            first.setdefault(quantizer, i)
    return [first.get(entry.grid, 0) for entry in sizes.entries]


def _fitting(values: dict[int, Values], limit: int) -> set[int]:
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


def _mean(numbers: list[float], portions: list[Portion]) -> float:
    images = [portion.images for portion in portions]
    return float(np.average(numbers, weights=images))
