"""What parts of a network read and give on all calibration images, in float and quantized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.batch import IMAGES_AT_ONCE, in_batch, leading
from subbyte.graph.float_model import FloatModel, Regional
from subbyte.methods.common.store import Store
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation, simulate


@dataclass(frozen=True)
class Values:
    """A node's values on all images.

    The two are one tensor where nothing is quantized in front of the node.

    Attributes:
        exact: In the float network, (images, …).
        quantized: Behind quantized parts, (images, …).
    """

    exact: torch.Tensor
    quantized: torch.Tensor


def recorded(
    float_model: FloatModel,
    before: Simulation | None,
    region: str,
    batches: Iterable[tuple[Any, ...]],
    store: Store,
) -> dict[str, Values]:
    """What a region's placeholders get when the model runs on all batches, by their names.

    Where a region reads no images but proposals, of which a quantized network makes others, what it
    gets in float stands for both.

    Args:
        float_model: The model.
        before: The simulation in which the regions that run before are quantized; `None`: there are
            none.
        region: The region.
        batches: The calibration images.
        store: Where the values go.
    """
    exact = _inputs(float_model, region, batches, store)
    quantized = exact if before is None else _inputs(before, region, batches, store)
    shapes = [
        [x.shape if isinstance(x, torch.Tensor) else x for x in xs] for xs in (exact, quantized)
    ]
    if shapes[0] != shapes[1]:
        quantized = exact
    graph = float_model.region(region).graph
    names = [node.name for node in graph.nodes if node.op == "placeholder"]
    return {n: Values(a, b) for n, a, b in zip(names, exact, quantized, strict=True)}


def of_regions_before(
    float_model: FloatModel, placement: Placement, params: QuantParams, region: str, roles: set[str]
) -> Simulation | None:
    """The simulation in which tensors of some roles are quantized in the regions before one.

    Args:
        float_model: The model.
        placement: What is quantized.
        params: Parameters found so far.
        region: The region before which others run.
        roles: "weight", "activation" or both.

    Returns:
        `None` where it is the first one.
    """
    before = float_model.region_names[: float_model.region_names.index(region)]
    if not before:
        return None
    kept = {t.key for t in placement.tensors if t.region in before and t.role in roles}
    tensors = {key: found for key, found in params.tensors.items() if key in kept}
    return simulate(float_model, placement, QuantParams(tensors, params.biases))


@torch.no_grad()
def _inputs(
    model: Regional, region: str, batches: Iterable[tuple[Any, ...]], store: Store
) -> list[Any]:
    """What a region gets on all batches: tensors with a row for each image, or as in the first."""
    module = model.region(region)
    seen: list[list[Any]] = []

    def hook(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(pytree.tree_leaves((args, kwargs)))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    count = 0
    try:
        for args in batches:
            count += 1
            model(*args) if region else hook(module, args, {})
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
    """The rows of some images of those values that have one for each; the others as they are.

    Args:
        values: Tensors on all images, and what is the same for all of them.
        images: Which ones.
        count: How many images there are.
        device: Where the rows go.
    """
    return [x[images].to(device) if in_batch(x, count) else x for x in values]


@torch.no_grad()
def run(part: fx.GraphModule, inputs: Sequence[Any], store: Store) -> list[torch.Tensor]:
    """What a part of a region gives on all images.

    Args:
        part: The part, as a graph of its own.
        inputs: What it reads on all images, by position.
        store: Where the outputs go.

    Raises:
        SubbyteError: The part does not give a row for each image.
    """
    count = images_of(inputs)
    wholes: list[torch.Tensor] = []
    for start in range(0, count, IMAGES_AT_ONCE):
        chosen = slice(start, start + IMAGES_AT_ONCE)
        outputs = part(*picked(inputs, chosen, count, store.device))
        for i, output in enumerate(outputs):
            if len(wholes) <= i:
                wholes.append(store.empty((count, *output.shape[1:]), output.dtype))
            rows = len(wholes[i][chosen])
            if len(output) != rows:
                raise SubbyteError(
                    f"a part of the network gives {len(output)} rows for {rows} images: this "
                    "method learns from one row an image; take another, as bias_correction"
                )
            wholes[i][chosen] = output
        store.let_go()
    return wholes
