"""Which nodes of a graph are layers, what they are called, and which stand first and last."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from subbyte.graph.operators import (
    CONV,
    FLOAT_LAYERS,
    FLOAT_MODULES,
    LINEAR,
    MATMUL,
    TRANSPOSED,
    groups_of,
    module_path,
    rank_of,
    tensor_inputs,
)


@dataclass(frozen=True)
class FoundLayer:
    """A layer in the graph.

    Attributes:
        name: Its qualified name in the region.
        operation: "conv", "linear" or "matmul".
        node: The node that computes it.
        inputs: The activations it reads.
        weight: The node of its weight, a parameter; `None`: it has none.
        axis: The weight's channel dimension.
        reason: Why it cannot be quantized; empty where it can.
    """

    name: str
    operation: str
    node: fx.Node
    inputs: tuple[fx.Node, ...]
    weight: fx.Node | None = None
    axis: int = 0
    reason: str = ""


def find_layers(graph: fx.Graph) -> list[FoundLayer]:
    """All convolutions, linear layers and matrix products of activations, in the graph's order."""
    data = carries_data(graph)
    found: list[FoundLayer] = []
    for node in graph.nodes:
        if node.target in CONV | TRANSPOSED | LINEAR:
            layer = _with_weight(node, "linear" if node.target in LINEAR else "conv")
            found.append(_of_weight(layer, found))
        elif node.target in FLOAT_LAYERS:
            name = _layer_name(node, node.args[1])
            found.append(FoundLayer(name, "conv", node, (), reason=FLOAT_LAYERS[node.target]))
        elif node.target in FLOAT_MODULES:
            name = module_path(node) or node.name
            if all(layer.name != name for layer in found):  # a cell runs once a step
                reason = FLOAT_MODULES[node.target]
                found.append(FoundLayer(name, "linear", node, (), reason=reason))
        elif node.target in MATMUL:
            product = _matmul(node, data)
            if product is not None:
                found.append(_product(product, found))
    return found


def own_layers(graph: fx.Graph, kinds: Collection[Any]) -> list[fx.Node]:
    """The layers whose weight and bias are parameters that nothing else reads.

    Args:
        graph: The graph of a region.
        kinds: The operators that count as layers.
    """
    read = Counter(str(node.target) for node in graph.nodes if node.op == "get_attr")

    def is_own(value: Any) -> bool:
        return value is None or (
            isinstance(value, fx.Node)
            and value.op == "get_attr"
            and read[str(value.target)] == len(value.users) == 1
        )

    nodes = (node for node in graph.nodes if node.target in kinds)
    return [node for node in nodes if all(map(is_own, node.args[1:3]))]


def carries_data(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value depends on the values of the model's inputs."""
    data: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in data for n in tensor_inputs(node)):
            data.add(node)
    return data


def results(graph: fx.Graph) -> list[Any]:
    """What a graph gives, one after the other: nodes, and what is constant."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    leaves: list[Any] = pytree.tree_leaves(output.args[0], is_leaf=lambda x: isinstance(x, fx.Node))
    return leaves


def first_layers(
    graph: fx.Graph, layers: Sequence[FoundLayer], inner: Collection[fx.Node] = ()
) -> set[str]:
    """Names of the layers to which a path leads from the model's input, past no other layer.

    Args:
        graph: The graph of a region.
        layers: Its layers; those that stay in float do not count.
        inner: Placeholders that are not the model's input, but come from other regions.
    """
    by_node = {layer.node: layer for layer in layers if not layer.reason}
    names: set[str] = set()
    from_input: set[fx.Node] = set()
    for node in graph.nodes:
        begins = node.op == "placeholder" and node not in inner
        reached = begins or any(n in from_input for n in tensor_inputs(node))
        if reached and node in by_node:
            names.add(by_node[node].name)
        elif reached:
            from_input.add(node)
    return names


def last_layers(
    graph: fx.Graph, layers: Sequence[FoundLayer], ends: Collection[fx.Node] | None = None
) -> set[str]:
    """Names of the layers from which a path leads to the model's output, past no other layer.

    Args:
        graph: The graph of a region.
        layers: Its layers; those that stay in float do not count.
        ends: Those of the graph's results that no other region reads; `None`: all.
    """
    by_node = {layer.node: layer for layer in layers if not layer.reason}
    names: set[str] = set()
    to_output: set[fx.Node] = set()
    ends = results(graph) if ends is None else ends
    for node in reversed(graph.nodes):
        reached = node in ends or any(user in to_output for user in node.users)
        if reached and node in by_node:
            names.add(by_node[node].name)
        elif reached:
            to_output.add(node)
    return names


def _with_weight(node: fx.Node, operation: str) -> FoundLayer:
    data, weight = node.args[0], node.args[1]
    name = _layer_name(node, weight)
    assert isinstance(data, fx.Node)
    if not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
        reason = "its weight is computed while the model runs"
        return FoundLayer(name, operation, node, (data,), reason=reason)
    return FoundLayer(name, operation, node, (data,), weight, _axis(node, weight))


def _axis(node: fx.Node, weight: fx.Node) -> int:
    """The dimension of a weight that its channels are along: those of outputs, of one group.

    A transposed convolution's weight is (inputs, outputs of a group, …). Of one whose groups are
    single channels, the inputs number the groups, and so the outputs.
    """
    if node.target not in TRANSPOSED:
        return 0
    single = groups_of(node) == weight.meta["val"].shape[0] > 1 == weight.meta["val"].shape[1]
    return 0 if single else 1


def _matmul(node: fx.Node, data: set[fx.Node]) -> FoundLayer | None:
    left, right = node.args[:2]
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    if left in data and right in data:
        path = module_path(node)
        return FoundLayer(f"{path}.matmul" if path else "matmul", "matmul", node, (left, right))
    if left in data and right.op == "get_attr":
        if rank_of(right) == 2:
            return FoundLayer(_layer_name(node, right), "linear", node, (left,), right, axis=1)
        reason = "its weight is not a matrix"
        return FoundLayer(_layer_name(node, right), "linear", node, (left,), right, reason=reason)
    if right in data and left.op == "get_attr":
        reason = "its weight is the first factor of the product"
        return FoundLayer(_layer_name(node, left), "linear", node, (right,), reason=reason)
    return None


def _product(layer: FoundLayer, others: list[FoundLayer]) -> FoundLayer:
    return _alone(layer, others) if layer.weight is None else _of_weight(layer, others)


def _of_weight(layer: FoundLayer, others: list[FoundLayer]) -> FoundLayer:
    """The layer by its weight's name; by one of its own, if another reads it by other channels."""
    if layer.weight is None:
        return layer
    for other in others:
        if other.weight is layer.weight and other.axis == layer.axis:
            return replace(layer, name=other.name)
    return _alone(layer, [other for other in others if other.weight is not None])


def _alone(layer: FoundLayer, others: list[FoundLayer]) -> FoundLayer:
    """The layer by a name of its own: a module's second product is "module.matmul_2"."""
    taken = {other.name for other in others}
    names = (f"{layer.name}_{i}" if i > 1 else layer.name for i in itertools.count(1))
    return replace(layer, name=next(name for name in names if name not in taken))


def _layer_name(node: fx.Node, weight: object) -> str:
    """The parameter's own name less ".weight" is the safest key for a layer."""
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        target = str(weight.target)
        return target.removesuffix(".weight") or target
    return module_path(node) or node.name
