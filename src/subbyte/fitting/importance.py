"""How much each row of a layer's outputs matters to what the model gives in the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from subbyte.fitting.matrices import Geometry, mean_squares
from subbyte.graph.batch import batch_size, portions
from subbyte.graph.captured import Captured
from subbyte.graph.sensitivity import random_sum
from subbyte.progress import Progress
from subbyte.reconstruction.store import Store

AT_ONCE = 8  # images whose intermediate results are in memory at a time
ALL = 2**62


def row_importance(
    captured: Captured,
    region: str,
    layers: dict[fx.Node, Geometry],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[fx.Node, torch.Tensor]:
    """For each layer, (images, rows): squared gradients, mean over channels, in the float network.

    The gradient is that of all outputs with random signs, whose square is in expectation the sum
    of the squared gradients of each one. In each layer the mean is 1. One that no gradient reaches,
    or whose outputs are not of the images, is left out.
    """
    parts = list(portions(batches, ALL, AT_ONCE))
    counts = [batch_size(args) for args in parts]
    watch = _Watch(captured.region(region), layers, sum(counts))
    with captured.in_float(), captured.interpreted(region, watch), torch.enable_grad():
        for args, count in zip(progress.track(parts, "weighing rows"), counts, strict=True):
            watch.images = count
            total = random_sum(captured.raw(*args), range(watch.first, watch.first + count))
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            watch.first += count
    whole = {node: value for node, value in watch.found.items() if watch.seen[node] == watch.first}
    means = {node: float(value.mean(dtype=torch.float64)) for node, value in whole.items()}
    return {node: value / means[node] for node, value in whole.items() if means[node] > 0}


class _Watch(fx.Interpreter):
    """Runs a region whose layers' outputs tell of their gradients.

    found: for each layer, (count, rows), filled from image `first` on; seen: how many images are.
    """

    def __init__(self, region: fx.GraphModule, layers: dict[fx.Node, Geometry], count: int) -> None:
        super().__init__(region)
        self.layers, self.count = layers, count
        self.images = self.first = 0
        self.found: dict[fx.Node, torch.Tensor] = {}
        self.seen = dict.fromkeys(layers, 0)

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n in self.layers:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            if output.shape[0] % self.images == 0:
                output.register_hook(lambda gradient: self._keep(n, gradient))
        return output

    def _keep(self, n: fx.Node, gradient: torch.Tensor) -> None:
        rows = mean_squares(gradient, self.layers[n]).reshape(self.images, -1)
        if n not in self.found:
            # Apart from what comes and goes, in which many small results would leave gaps.
            shape = (self.count, rows.shape[1])
            self.found[n] = Store(ALL, rows.device).empty(shape, rows.dtype)
        self.found[n][self.first : self.first + self.images] = rows
        self.seen[n] += self.images
