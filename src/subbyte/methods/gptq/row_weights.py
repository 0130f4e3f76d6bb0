"""How much each row of a layer's outputs matters to what the model gives in the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx

from subbyte.graph.batch import batch_size, images_of_pixels, in_chunks
from subbyte.graph.float_model import FloatModel, interpreted
from subbyte.methods.common.samples import Geometry, geometry_of, mean_squares
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.order import LayerOrder
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import float_weight
from subbyte.utils.progress import Progress

PIXELS_IN_MEMORY = 2**18  # of images whose intermediate results are kept at a time
FEWEST_IMAGES, MOST_IMAGES = 8, 64  # of them, however large or small they are
UNLIMITED = sys.maxsize

RowWeights = dict[tuple[str, str], torch.Tensor]  # of a region's node


def layers_row_weights(
    float_model: FloatModel,
    placement: Placement,
    orders: Mapping[str, LayerOrder],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> RowWeights:
    """`row_weights` of all layers with a weight.

    Args:
        float_model: The model.
        placement: Which weights there are.
        orders: Region → its layers.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    layers: dict[str, dict[str, Geometry]] = {}
    for name, order in orders.items():
        layers[name] = {}
        for layer in order.layers:
            weight = float_weight(float_model, placement.tensor(str(layer.weight)))
            layers[name][layer.node] = geometry_of(order.nodes[layer.node], weight)
    return row_weights(float_model, layers, batches, progress)


def row_weights(
    float_model: FloatModel,
    layers: Mapping[str, Mapping[str, Geometry]],
    batches: Iterable[tuple[Any, ...]],
    progress: Progress,
) -> RowWeights:
    """What a squared error in each row of a layer's outputs costs: the mean squared gradient there.

    Means are over channels. The gradient is the random one of the model's output loss.

    Args:
        float_model: The model; all of its regions run once for each image.
        layers: Region → a layer's node → how the layer reads its input.
        batches: The calibration images.
        progress: Shows how far it is.

    Returns:
        Region and node → (images, rows), with a mean of 1. A layer that no gradient reaches, or
        whose outputs are not of the images, is left out.
    """
    size = images_of_pixels(next(iter(batches), ()), PIXELS_IN_MEMORY)
    size = min(max(size, FEWEST_IMAGES), MOST_IMAGES)
    chunks = list(in_chunks(batches, UNLIMITED, size))
    counts = [batch_size(args) for args in chunks]
    watches = {
        region: _GradientWatch(float_model.region(region), its, sum(counts))
        for region, its in layers.items()
    }
    with ExitStack() as stack:
        for region, watch in watches.items():
            stack.enter_context(interpreted(float_model.region(region), watch))
        stack.enter_context(torch.enable_grad())
        first = 0
        for args, count in zip(progress.track(chunks, "weighing rows"), counts, strict=True):
            for watch in watches.values():
                watch.first, watch.images = first, count
            images = range(first, first + count)
            total = float_model.output_loss.random_sum(float_model.raw(*args), args, images)
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            first += count
    return {
        (region, node): value
        for region, watch in watches.items()
        for node, value in watch.weights(first).items()
    }


class _GradientWatch(fx.Interpreter):
    """Runs a region and takes the gradients of its layers' outputs.

    Attributes:
        first: The number of the first of the images that run.
        images: How many run.
        found: Node → (count, rows), filled image by image.
        seen: Node → of how many images it is filled.
    """

    def __init__(self, region: fx.GraphModule, layers: Mapping[str, Geometry], count: int) -> None:
        super().__init__(region)
        self.layers, self.count = layers, count
        self.images = self.first = 0
        self.found: dict[str, torch.Tensor] = {}
        self.seen = dict.fromkeys(layers, 0)

    def weights(self, images: int) -> dict[str, torch.Tensor]:
        """What was found, with a mean of 1 each; of layers that so many images were seen of."""
        whole = {node: value for node, value in self.found.items() if self.seen[node] == images}
        means = {node: float(value.mean(dtype=torch.float64)) for node, value in whole.items()}
        return {node: value / means[node] for node, value in whole.items() if means[node] > 0}

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n.name in self.layers:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            if output.shape[0] % self.images == 0:
                output.register_hook(lambda gradient: self._keep(n.name, gradient))
        return output

    def _keep(self, node: str, gradient: torch.Tensor) -> None:
        rows = mean_squares(gradient, self.layers[node]).reshape(self.images, -1)
        if node not in self.found:
            # Apart from what comes and goes, in which many small results would leave gaps.
            shape = (self.count, rows.shape[1])
            self.found[node] = Store(UNLIMITED, rows.device).empty(shape, rows.dtype)
        self.found[node][self.first : self.first + self.images] = rows
        self.seen[node] += self.images
