"""Models whose batch may be in dimension 1 of their inputs, behind time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.batch import leading
from subbyte.graph.capture.any_size import of_size
from subbyte.utils.arguments import image_lists

LAYERS = (nn.MultiheadAttention, nn.RNNBase)  # they take [time, batch, …], unless told otherwise


def takes_time_first(model: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a layer takes dimension 1 of a model's inputs for the batch.

    Of a graph: whether it keeps that dimension open.

    Args:
        model: The model, or a graph of one.
        args: Its positional arguments for one batch.
    """
    if isinstance(model, fx.GraphModule):
        values = [n.meta.get("val") for n in model.graph.nodes if n.op == "placeholder"]
        shapes = [value.shape for value in values if isinstance(value, torch.Tensor)]
        return any(len(shape) == 3 and not isinstance(shape[1], int) for shape in shapes)
    layers = [m for m in model.modules() if isinstance(m, LAYERS) and not m.batch_first]
    size = leading(args)
    if not layers or size is None or image_lists(args):
        return False
    try:
        own, other = (_read(model, layers, of_size(args, size, n)) for n in (size, size + 1))
    except Exception:  # the model does not take another number itself, which is found elsewhere
        return False
    pairs = zip(own, other, strict=False)
    return any(one[0] != two[0] and one[1] == two[1] for one, two in pairs)


@torch.no_grad()
def _read(model: nn.Module, layers: list[Any], args: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The shapes of the three-dimensional tensors that layers read first."""
    shapes: list[tuple[int, ...]] = []

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].dim() == 3:
            shapes.append(tuple(inputs[0].shape))

    with ExitStack() as stack, torch.random.fork_rng():
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(hook).remove)
        model(*args)
    return shapes
