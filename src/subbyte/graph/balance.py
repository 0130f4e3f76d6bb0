"""Channels of unlike ranges get one range where each can be scaled by itself, exactly.

A quantizer has one scale for a tensor. Where the channels of the tensor have ranges that differ by
much, little is left of the small ones. In front of a depthwise convolution, and behind a
convolution whose result a function such as SiLU reads, every channel can be multiplied by a power
of two, and the layer's own weights by its inverse: the model computes the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from subbyte.graph.float_model import FloatModel, rewritten
from subbyte.graph.layers import carries_data, own_layers
from subbyte.graph.operators import (
    CONV,
    MUL,
    POINTWISE,
    A,
    add_constant,
    get_tensor,
    groups_of,
    put_tensor,
    tensor_readers,
    weight_of,
)
from subbyte.numerics.qspec import along

INPUT, RESULT = "input", "result"
CHANNELS = 1  # the dimension
HOMOGENEOUS = {A.relu.default, A.leaky_relu.default}  # a positive factor passes them


@dataclass(frozen=True)
class Site:
    """A tensor whose channels can be scaled.

    Attributes:
        region: The region.
        node: Of a convolution.
        side: "input" of a depthwise convolution, or "result" of any.
    """

    region: str
    node: str
    side: str

    @property
    def key(self) -> str:
        """By which factors are saved."""
        return f"{self.region}:{self.node}:{self.side}"


Factors = Mapping[str, torch.Tensor]  # a site's key → by what its channels are divided, (channels,)


def sites(float_model: FloatModel) -> list[Site]:
    """Where channels can be scaled, in the order in which the layers run."""
    found = []
    for name in float_model.region_names:
        region = float_model.region(name)
        data = carries_data(region.graph)
        own = set(own_layers(region.graph, CONV))
        for node in region.graph.nodes:
            if node in own and node.args[0] in data:
                if _is_depthwise(region, node) and _can_divide(own, node.args[0]):
                    found.append(Site(name, node.name, INPUT))
                if _is_curved(node):
                    found.append(Site(name, node.name, RESULT))
    return found


def balanced(float_model: FloatModel, factors: Factors) -> FloatModel:
    """The same model with scaled channels; the one that is given is left as it is.

    Args:
        float_model: The model.
        factors: Powers of two.
    """
    chosen = [site for site in sites(float_model) if site.key in factors]
    if not chosen:
        return float_model

    def rewrite(name: str, region: fx.GraphModule) -> None:
        nodes = {node.name: node for node in region.graph.nodes}
        own = set(own_layers(region.graph, CONV))
        for site in (site for site in chosen if site.region == name):
            if site.side == INPUT:
                _scale_input(region, nodes[site.node], own, factors[site.key])
            else:
                _scale_result(region, nodes[site.node], factors[site.key])

    return replace(rewritten(float_model, rewrite), factors=dict(factors))


def _is_depthwise(region: fx.GraphModule, node: fx.Node) -> bool:
    """Whether each channel that a convolution reads has weights of its own."""
    weight = weight_of(region, node)
    value = node.args[0].meta.get("val")  # type: ignore[union-attr]
    batched = isinstance(value, torch.Tensor) and value.dim() == weight.dim()
    return batched and weight.shape[1] == 1 and groups_of(node) > 1


def _can_divide(own: Set[fx.Node], node: fx.Node) -> bool:
    """Whether one layer reads a tensor, which a convolution of its own or a function gives.

    Behind a limit (ReLU6) a factor would stand between the convolution and its kernel's end.
    """
    if len(tensor_readers(node)) != 1:
        return False
    return node.target in MUL | (POINTWISE - HOMOGENEOUS) or _before(own, node) is not None


def _is_curved(node: fx.Node) -> bool:
    """Whether functions alone read a convolution's result, through which no factor passes."""
    readers = tensor_readers(node)
    functions = [reader for reader in readers if reader.target in POINTWISE - HOMOGENEOUS]
    gated = [r for r in readers if r.target in MUL and any(f in r.args for f in functions)]
    return bool(functions) and len(functions) + len(gated) == len(readers)


def _scale_input(
    region: fx.GraphModule, node: fx.Node, own: Set[fx.Node], factors: torch.Tensor
) -> None:
    """Divide what a depthwise convolution reads by channel, and multiply its weights.

    Args:
        region: The region.
        node: The depthwise convolution.
        own: The convolutions whose parameters nothing else reads.
        factors: (channels,).
    """
    weight, source = weight_of(region, node), node.args[0]
    assert isinstance(source, fx.Node)
    factors = factors.to(weight)
    rows = factors.repeat_interleave(len(weight) // len(factors))
    _put(region, node.args[1], weight * along(rows, weight, 0))
    first = _before(own, source)
    if first is not None:
        _divide_rows(region, first, factors)
        return
    scaled = _multiplied(region, source, node, 1 / factors)
    node.replace_input_with(source, scaled)


def _scale_result(region: fx.GraphModule, node: fx.Node, factors: torch.Tensor) -> None:
    """Divide what a convolution gives by channel, and multiply it for those that read it."""
    _divide_rows(region, node, factors.to(weight_of(region, node)))
    readers = list(node.users)
    scaled = _multiplied(region, node, node.next, factors)
    for reader in readers:
        reader.replace_input_with(node, scaled)


def _multiplied(
    region: fx.GraphModule, node: fx.Node, before: fx.Node, factors: torch.Tensor
) -> fx.Node:
    """A tensor times a factor for each channel.

    Args:
        region: The region.
        node: What gives the tensor.
        before: The node in front of which the product stands.
        factors: (channels,).
    """
    value = node.meta["val"]
    with region.graph.inserting_before(before):
        own = along(factors.to(value.device, value.dtype), value, CHANNELS)
        constant = add_constant(region, before, f"{node.name}_balance", own)
        scaled = region.graph.call_function(A.mul.Tensor, (node, constant))
    scaled.meta = dict(node.meta)
    return scaled


def _before(own: Set[fx.Node], node: fx.Node) -> fx.Node | None:
    """The convolution that gives a tensor, past functions through which a factor passes."""
    while node.target in HOMOGENEOUS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        if len(node.users) != 1:
            return None
    return node if node in own and len(node.users) == 1 else None


def _divide_rows(region: fx.GraphModule, node: fx.Node, factors: torch.Tensor) -> None:
    for source in node.args[1:3]:
        if isinstance(source, fx.Node):
            value = get_tensor(region, source)
            _put(region, source, value / along(factors, value, 0))


def _put(region: fx.GraphModule, source: Any, value: torch.Tensor) -> None:
    put_tensor(region, str(source.target), value)
