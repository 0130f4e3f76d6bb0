"""Placements whose zero points are 0, for targets that have no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import fx

from subbyte.graph.float_model import FloatModel
from subbyte.graph.operators import (
    ADD,
    MUL,
    POOL,
    clamp_of,
    is_global_pool,
    is_move,
    is_never_negative,
    tensor_inputs,
)
from subbyte.placement.placement import Placement, QuantizedTensor, node_names


def with_symmetric(placement: Placement, chosen: Callable[[QuantizedTensor], bool]) -> Placement:
    """The same with symmetric integers for the tensors that are chosen.

    Args:
        placement: What is quantized.
        chosen: Whether a tensor becomes symmetric.
    """
    tensors = [
        replace(t, spec=replace(t.spec, symmetric=True)) if chosen(t) else t
        for t in placement.tensors
    ]
    return replace(placement, tensors=tuple(tensors))


def never_negative(float_model: FloatModel, placement: Placement) -> set[str]:
    """The keys of the activations none of whose values is below 0.

    Args:
        float_model: The model.
        placement: What is quantized of it.
    """
    nodes = {name: node_names(float_model.region(name).graph) for name in float_model.region_names}
    found: dict[str, bool] = {}
    known: dict[fx.Node, bool] = {}
    for insertion in placement.insertions:
        node = nodes[insertion.region][insertion.node]
        found[insertion.key] = found.get(insertion.key, True) and _is_never_negative(node, known)
    return {key for key, never in found.items() if never}


def _is_never_negative(node: fx.Node, known: dict[fx.Node, bool]) -> bool:
    """Whether no value of a node is below 0.

    Args:
        node: The node.
        known: What is known of other nodes, to which is added.
    """
    if node not in known:
        limits = clamp_of(node)
        if is_never_negative(node) or (limits is not None and limits[0] >= 0):
            known[node] = True
        else:
            sources = tensor_inputs(node) if _keeps_sign(node) else []
            known[node] = bool(sources) and all(_is_never_negative(s, known) for s in sources)
    return known[node]


def _keeps_sign(node: fx.Node) -> bool:
    """Whether a node makes nothing negative of what is not: sums, products, means, moves."""
    if node.target in ADD | MUL:
        return all(isinstance(arg, fx.Node) for arg in node.args) and not node.kwargs
    return node.target in POOL or is_global_pool(node) or is_move(node)
