"""A placement as XNNPACK has it.

XNNPACK runs a convolution or a linear layer with an int8 kernel only if its result is quantized
too, whoever reads it, and the model's outputs are no exception. It has no int8 kernel for products
of two activations, so that integers would cost accuracy there and save no time.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from subbyte.graph.float_model import FloatModel
from subbyte.graph.layers import carries_data, results
from subbyte.graph.operators import clamp_of, tensor_readers
from subbyte.numerics.qspec import QSpec
from subbyte.placement.placement import (
    Insertion,
    PlacedLayer,
    Placement,
    QuantizedTensor,
    node_names,
)
from subbyte.recipe import rule_of
from subbyte.targets.onnx.symmetric import with_symmetric

LAYERS = ("conv", "linear")
NO_KERNEL = "XNNPACK has no integer kernel for products of activations"
RESULT_BITS = 8
WIDEST = 8  # of weights, as int8 holds them


def adjusted(float_model: FloatModel, placement: Placement) -> Placement:
    """The placement with what XNNPACK needs of results, and without what it does not take.

    Args:
        float_model: The model.
        placement: As it is for all targets.
    """
    placement = with_symmetric(_without_products(placement), _is_wide_weight)
    for region in float_model.region_names:
        placement = _with_results(float_model, region, placement)
    return placement


def _is_wide_weight(tensor: QuantizedTensor) -> bool:
    """Whether a weight has integers that fit into int8 with zero point 0 alone."""
    return tensor.role == "weight" and tensor.spec.bits == WIDEST


def _without_products(placement: Placement) -> Placement:
    """Products of two activations in float, and what they alone read."""
    products = {layer.name for layer in placement.layers if layer.operation not in LAYERS}
    gone = {
        tensor.key
        for tensor in placement.of_role("activation")
        if tensor.readers and all(reader in products for reader in tensor.readers)
    }
    layers = tuple(
        replace(layer, activations=(), reason=layer.reason or NO_KERNEL)
        if layer.name in products
        else layer
        for layer in placement.layers
    )
    return replace(
        placement,
        tensors=tuple(t for t in placement.tensors if t.key not in gone),
        insertions=tuple(i for i in placement.insertions if i.key not in gone),
        layers=layers,
    )


def _with_results(float_model: FloatModel, region: str, placement: Placement) -> Placement:
    """All that a region's layers give is quantized, for all that read it."""
    graph = float_model.region(region).graph
    nodes, data = node_names(graph), carries_data(graph)
    insertions, tensors = list(placement.insertions), list(placement.tensors)
    for layer in placement.layers:
        if layer.region != region or layer.operation not in LAYERS or not layer.integer:
            continue
        node = _result(nodes[layer.node])
        readers = frozenset(reader.name for reader in tensor_readers(node))
        if node not in data or _read_elsewhere(float_model, region, node, placement):
            continue
        known = [i for i, x in enumerate(insertions) if (x.region, x.node) == (region, node.name)]
        if len(known) == 1:
            insertions[known[0]] = replace(insertions[known[0]], readers=readers)
        elif not known:
            tensor = _tensor(layer, placement, {tensor.key for tensor in tensors})
            tensors.append(tensor)
            insertions.append(Insertion(region, tensor.key, node.name, readers))
    ordered = _in_order(float_model, insertions)
    return replace(placement, tensors=_as_read(float_model, tensors, ordered), insertions=ordered)


def _result(node: fx.Node) -> fx.Node:
    """What a layer gives, past a function of limits that its kernel computes along with it."""
    readers = tensor_readers(node)
    return readers[0] if len(readers) == 1 and clamp_of(readers[0]) is not None else node


def _read_elsewhere(
    float_model: FloatModel, region: str, node: fx.Node, placement: Placement
) -> bool:
    """Whether only other regions read a value, and each quantizes what it is given."""
    if any(reader.op != "output" for reader in node.users):
        return False
    leaves = [i for i, leaf in enumerate(results(node.graph)) if leaf is node]
    readers = [place for i in leaves for place in float_model.flow.readers((region, i))]
    if not readers:
        return False
    for name, index in readers:
        placeholders = [n for n in float_model.region(name).graph.nodes if n.op == "placeholder"]
        read = placeholders[index]
        wanted = {reader.name for reader in tensor_readers(read)}
        here = [i for i in placement.insertions if (i.region, i.node) == (name, read.name)]
        if not any(insertion.readers >= wanted for insertion in here):
            return False
    return True


def _tensor(layer: PlacedLayer, placement: Placement, taken: set[str]) -> QuantizedTensor:
    """What a layer gives, of 8 bits."""
    recipe, key = placement.recipe, f"{layer.name}.result"
    while key in taken:
        key += "_"
    return QuantizedTensor(
        key=key,
        layer=layer.name,
        role="activation",
        region=layer.region,
        spec=QSpec(RESULT_BITS, recipe.symmetric_activations),
        rule=rule_of(recipe.ranges, "activations"),
        readers=(),
    )


def _in_order(float_model: FloatModel, insertions: list[Insertion]) -> tuple[Insertion, ...]:
    """Insertions in the order of the graphs' nodes."""
    order = _order(float_model)
    return tuple(sorted(insertions, key=lambda i: order[i.region, i.node]))


def _as_read(
    float_model: FloatModel, tensors: list[QuantizedTensor], insertions: tuple[Insertion, ...]
) -> tuple[QuantizedTensor, ...]:
    """Tensors in the order in which the graphs read them."""
    order, first = _order(float_model), dict[str, int]()
    for insertion in insertions:
        for reader in insertion.readers:
            read = order[insertion.region, reader]
            first[insertion.key] = min(first.get(insertion.key, read), read)
    return tuple(sorted(tensors, key=lambda tensor: first.get(tensor.key, len(order))))


def _order(float_model: FloatModel) -> dict[tuple[str, str], int]:
    """Region and node → its place among all nodes."""
    nodes = [
        (region, node.name)
        for region in float_model.region_names
        for node in float_model.region(region).graph.nodes
    ]
    return {node: i for i, node in enumerate(nodes)}
