"""How much each value of a block's outputs matters to the task (BRECQ's Fisher term)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.nn.functional import cross_entropy

from subbyte.graph.batch import batch_size, in_chunks
from subbyte.graph.blocks import Block
from subbyte.graph.float_model import FloatModel, interpreted
from subbyte.graph.output_loss import is_logits
from subbyte.methods.common.simulated_blocks import float_name
from subbyte.methods.common.store import Store

IMAGES_IN_MEMORY = 16  # whose intermediate results are kept at a time


def fisher_diagonal(
    float_model: FloatModel,
    block: Block,
    batches: Iterable[tuple[Any, ...]],
    images: int,
    store: Store,
) -> list[torch.Tensor]:
    """For each output of a block, (images, …): squared gradients of the task's loss, mean 1.

    Li et al. 2021, equation 10: the diagonal of the Fisher information stands for the Hessian. It
    is that of the float network, whose own classes, drawn from its softmax, are the labels; where
    the model does not return one matrix, (images, classes), that of its output loss.

    Args:
        float_model: The model.
        block: A block of the model or of a simulation of it; quantizers in it do not count.
        batches: The calibration images.
        images: How many of them are looked at, the first ones.
        store: Where the gradients go.

    Returns:
        None, where what the block gives has no row for each image, as a block of proposals.
    """
    found: list[torch.Tensor] = []
    region = float_model.region(block.region)
    cut, first = _Cut(region, [float_name(node) for node in block.outputs]), 0
    with interpreted(region, cut), torch.enable_grad():
        for args in in_chunks(batches, images, IMAGES_IN_MEMORY):
            last = first + batch_size(args)
            loss = _drawn_loss(float_model, args, range(first, last))
            if any(len(leaf) != last - first for leaf in cut.leaves):
                return []
            if not found:
                shapes = [(images, *leaf.shape[1:]) for leaf in cut.leaves]
                found = [store.empty(shape, torch.float32) for shape in shapes]
            gradients = torch.autograd.grad(loss, cut.leaves, allow_unused=True)
            for whole, gradient in zip(found, gradients, strict=True):
                whole[first:last] = 1 if gradient is None else gradient.square()
            first = last
    for whole in found:
        mean = whole.mean(dtype=torch.float64)
        whole.div_(mean) if mean > 0 else whole.fill_(1)
    return found


def _drawn_loss(float_model: FloatModel, args: tuple[Any, ...], images: range) -> torch.Tensor:
    """The sum over images, whose numbers decide what is drawn for each."""
    outputs = float_model.raw(*args)
    if not is_logits(outputs):
        return float_model.output_loss.random_sum(outputs, args, images)
    drawn = [torch.rand((), generator=torch.Generator().manual_seed(image)) for image in images]
    reached = outputs.detach().double().softmax(1).cumsum(1).cpu()
    labels = (reached < torch.stack(drawn)[:, None]).sum(1).clamp(max=outputs.shape[1] - 1)
    return cross_entropy(outputs, labels.to(outputs.device), reduction="sum")


class _Cut(fx.Interpreter):
    """Runs a region whose gradients end at some nodes.

    Attributes:
        names: Of the nodes.
        values: Name → what the node gave.
    """

    def __init__(self, region: fx.GraphModule, names: list[str]) -> None:
        super().__init__(region)
        self.names = names
        self.values: dict[str, torch.Tensor] = {}

    @property
    def leaves(self) -> list[torch.Tensor]:
        """What the nodes gave, in the order of their names."""
        return [self.values[name] for name in self.names]

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n.name in self.names:
            output = output.detach().requires_grad_()
            self.values[n.name] = output
        return output
