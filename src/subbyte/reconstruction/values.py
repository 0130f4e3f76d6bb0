"""What blocks read and give on all calibration images, in float and behind quantized blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.batch import batch_size, in_batch
from subbyte.graph.blocks import Block
from subbyte.graph.captured import Captured, restoring_states
from subbyte.grid.fake_quantize import State
from subbyte.reconstruction.store import Store

AT_ONCE = 32  # images


@dataclass(frozen=True)
class Values:
    """A node's values on all images, (images, …), in the float network and behind quantized blocks.

    The two are one tensor where nothing is quantized in front of the node.
    """

    exact: torch.Tensor
    quantized: torch.Tensor


def recorded(
    captured: Captured, region: str, batches: Iterable[tuple[Any, ...]], store: Store
) -> dict[fx.Node, Values]:
    """What a region's placeholders get when the model runs on all batches."""
    module = captured.region(region)
    seen: list[list[Any]] = []
    sizes: list[int] = []

    def hook(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(pytree.tree_leaves((args, kwargs)))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad(), captured.in_float():
            for args in batches:
                sizes.append(batch_size(args))
                captured(*args) if region else hook(module, args, {})
    finally:
        handle.remove()
    if len(seen) != len(sizes):
        raise SubbyteError(
            f"the region '{region}' runs {len(seen)} times for {len(sizes)} batches: give regions "
            "that run once for each"
        )
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    values = {}
    for i, node in enumerate(placeholders):
        parts = [leaves[i] for leaves in seen]
        if all(in_batch(part, size) for part, size in zip(parts, sizes, strict=True)):
            whole = _joined(parts, store)
            values[node] = Values(whole, whole)
        else:
            values[node] = Values(parts[0], parts[0])
    return values


def _joined(parts: list[torch.Tensor], store: Store) -> torch.Tensor:
    whole = store.empty((sum(len(p) for p in parts), *parts[0].shape[1:]), parts[0].dtype)
    start = 0
    for part in parts:
        if part.shape[1:] != whole.shape[1:]:
            raise SubbyteError(
                f"the calibration images have the sizes {tuple(whole.shape[1:])} and "
                f"{tuple(part.shape[1:])}: this method needs images of one size"
            )
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def images_of(values: Sequence[Any]) -> int:
    """How many images the values are of."""
    return max(len(x) for x in values if isinstance(x, torch.Tensor) and x.dim() > 0)


def picked(
    values: Sequence[Any], images: torch.Tensor | slice, count: int, device: torch.device
) -> list[Any]:
    """The rows of some images of those values that have one for each; the others as they are."""
    return [x[images].to(device) if in_batch(x, count) else x for x in values]


@torch.no_grad()
def run(block: Block, inputs: Sequence[Any], store: Store) -> list[torch.Tensor]:
    """A block's outputs on all images."""
    count = images_of(inputs)
    wholes: list[torch.Tensor] = []
    for start in range(0, count, AT_ONCE):
        chosen = slice(start, start + AT_ONCE)
        outputs = block.module(*picked(inputs, chosen, count, store.device))
        for i, output in enumerate(outputs):
            if len(wholes) <= i:
                wholes.append(store.empty((count, *output.shape[1:]), output.dtype))
            wholes[i][chosen] = output
    return wholes


@contextmanager
def states(captured: Captured, block: Block, weights: State, activations: State) -> Iterator[None]:
    """While it lasts, the grids of one block are in these states."""
    with restoring_states(quantizer for _, quantizer in block.tensors(captured)):
        for tensor, quantizer in block.tensors(captured):
            quantizer.state = weights if tensor.role == "weight" else activations
        yield
