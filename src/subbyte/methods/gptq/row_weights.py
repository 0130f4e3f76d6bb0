"""How much each row of a layer's outputs matters to what the model gives in the end."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx

from subbyte.calibration.gradients import random_sum
from subbyte.graph.batch import batch_size, images_of_pixels, portions
from subbyte.methods.common.samples import Geometry, mean_squares
from subbyte.methods.common.store import Store
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Progress

AT_ONCE = (8, 64)  # least and most images whose intermediate results are in memory at a time
PIXELS = 2**18  # of them, unless these are more images than the most, or fewer than the least
ALL = 2**62


def row_importance(
    captured: Captured,
    layers: dict[str, dict[fx.Node, Geometry]],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> dict[fx.Node, torch.Tensor]:
    """For each layer of each region, (images, rows): squared gradients in the float network.

    They are means over channels. The gradient is that of all outputs with random signs, whose
    square is in expectation the sum of the squared gradients of each one. In each layer the mean is
    1. One that no gradient reaches, or whose outputs are not of the images, is left out.
    """
    size = images_of_pixels(next(iter(batches), ()), PIXELS)
    parts = list(portions(batches, ALL, min(max(size, AT_ONCE[0]), AT_ONCE[1])))
    counts = [batch_size(args) for args in parts]
    watches = [_Watch(captured.region(region), its, sum(counts)) for region, its in layers.items()]
    with ExitStack() as stack:
        stack.enter_context(captured.in_float())
        for region, watch in zip(layers, watches, strict=True):
            stack.enter_context(captured.interpreted(region, watch))
        stack.enter_context(torch.enable_grad())
        first = 0
        for args, count in zip(progress.track(parts, "weighing rows"), counts, strict=True):
            for watch in watches:
                watch.first, watch.images = first, count
            total = random_sum(captured.raw(*args), range(first, first + count))
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            first += count
    return {node: value for watch in watches for node, value in watch.weights(first).items()}


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

    def weights(self, images: int) -> dict[fx.Node, torch.Tensor]:
        """What was found, with a mean of 1 each; of layers that so many images were seen of."""
        whole = {node: value for node, value in self.found.items() if self.seen[node] == images}
        means = {node: float(value.mean(dtype=torch.float64)) for node, value in whole.items()}
        return {node: value / means[node] for node, value in whole.items() if means[node] > 0}

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
