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
from subbyte.graph.batch import in_batch, leading
from subbyte.graph.blocks import Block
from subbyte.methods.common.store import Store
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured, restoring_states

AT_ONCE = 32  # images


@dataclass(frozen=True)
class Values:
    """A node's values on all images, (images, …), in the float network and behind quantized blocks.

    The two are one tensor where nothing is quantized in front of the node.
    """

    exact: torch.Tensor
    quantized: torch.Tensor


def recorded(
    captured: Captured,
    region: str,
    batches: Iterable[tuple[Any, ...]],
    store: Store,
    activations: State = State.OFF,
) -> dict[fx.Node, Values]:
    """What a region's placeholders get when the model runs on all batches.

    In the float network, and behind the regions that run before, whose weights are on their grids
    and whose activations are in a state. Where a region reads no images but proposals, of which a
    quantized network makes others, the two are one.
    """
    module = captured.region(region)
    before = captured.region_names[: captured.region_names.index(region)]
    with captured.in_float():
        exact = _inputs(captured, region, batches, store)
        quantized = exact
        if before:
            for tensor, quantizer in captured.quantizers():
                if tensor.region in before:
                    weight = tensor.role == "weight"
                    quantizer.state = State.QUANTIZE if weight else activations
            quantized = _inputs(captured, region, batches, store)
    shapes = [
        [x.shape if isinstance(x, torch.Tensor) else x for x in xs] for xs in (exact, quantized)
    ]
    if shapes[0] != shapes[1]:
        quantized = exact
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    return {n: Values(a, b) for n, a, b in zip(placeholders, exact, quantized, strict=True)}


@torch.no_grad()
def _inputs(
    captured: Captured, region: str, batches: Iterable[tuple[Any, ...]], store: Store
) -> list[Any]:
    """What a region gets on all batches: tensors with a row for each image, or as in the first."""
    module = captured.region(region)
    seen: list[list[Any]] = []

    def hook(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(pytree.tree_leaves((args, kwargs)))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    count = 0
    try:
        for args in batches:
            count += 1
            captured(*args) if region else hook(module, args, {})
    finally:
        handle.remove()
    if len(seen) != count:
        raise SubbyteError(
            f"the region '{region}' runs {len(seen)} times for {count} batches: give regions that "
            "run once for each"
        )
    sizes = [leading(leaves) for leaves in seen]
    found = []
    for parts in zip(*seen, strict=True):
        rows = all(in_batch(part, size or 0) for part, size in zip(parts, sizes, strict=True))
        found.append(_joined(list(parts), store) if rows else parts[0])
    return found


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
        store.let_go()
    return wholes


@contextmanager
def states(captured: Captured, block: Block, weights: State, activations: State) -> Iterator[None]:
    """While it lasts, the grids of one block are in these states."""
    with restoring_states(quantizer for _, quantizer in block.tensors(captured)):
        for tensor, quantizer in block.tensors(captured):
            quantizer.state = weights if tensor.role == "weight" else activations
        yield
