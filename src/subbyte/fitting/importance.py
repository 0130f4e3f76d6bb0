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
    found: dict[fx.Node, list[torch.Tensor]] = {node: [] for node in layers}
    watch, first = _Watch(captured.region(region), layers, found), 0
    parts = list(portions(batches, ALL, AT_ONCE))
    with captured.in_float(), captured.interpreted(region, watch), torch.enable_grad():
        for args in progress.track(parts, "weighing rows"):
            watch.images = batch_size(args)
            total = random_sum(captured.raw(*args), range(first, first + watch.images))
            first += watch.images
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    whole = {
        node: torch.cat(parts)
        for node, parts in found.items()
        if parts and sum(len(p) for p in parts) == first
    }
    means = {node: float(value.mean(dtype=torch.float64)) for node, value in whole.items()}
    return {node: value / means[node] for node, value in whole.items() if means[node] > 0}


class _Watch(fx.Interpreter):
    """Runs a region whose layers' outputs tell of their gradients."""

    def __init__(
        self,
        region: fx.GraphModule,
        layers: dict[fx.Node, Geometry],
        found: dict[fx.Node, list[torch.Tensor]],
    ) -> None:
        super().__init__(region)
        self.layers, self.found = layers, found
        self.images = 0

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n in self.layers:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            geometry, found, images = self.layers[n], self.found[n], self.images
            if output.shape[0] % images == 0:
                output.register_hook(
                    lambda g: found.append(mean_squares(g, geometry).reshape(images, -1))
                )
        return output
