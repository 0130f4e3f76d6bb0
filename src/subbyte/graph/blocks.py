"""Blocks: parts of a graph that one tensor leads into and one out of."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.graph.layers import carries_data, results
from subbyte.graph.operators import A, is_number, limits_channels, tensor_inputs

LONG = 8  # layers


@dataclass(frozen=True)
class Block:
    """A part of a region that runs by itself.

    Attributes:
        name: The first of its layers.
        region: The region's name.
        module: Takes the values of `inputs` by position and returns those of `outputs` as a tuple.
            Submodules, parameters and buffers in it are the region's own.
        inputs: Nodes of the region's graph.
        outputs: Likewise.
    """

    name: str
    region: str
    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def find_blocks(module: fx.GraphModule, region: str, layers: Mapping[str, str]) -> list[Block]:
    """The blocks of a region, in the order in which they run; each has at least one layer.

    A block may end wherever a single tensor is alive: computed, and read further on. On a residual
    network these are the stem, every residual block and the classifier. What the region itself
    gives (the feature maps of a backbone) does not count as read, and neither does a length.
    Where a region gives several tensors, what is read again behind more than `LONG` layers does not
    count either (by a feature pyramid), and what has nothing in common (heads) is cut by itself.

    Args:
        module: The region, with quantizers or without.
        region: Its name.
        layers: Node → the layer's name, of those that could be quantized.
    """
    graph = module.graph
    data = _data(graph)
    nodes = {node for node in graph.nodes if node.name in layers}
    parts = _parts(graph, data, nodes)
    segments = [s for part in parts for s in _joined(_segments(graph, part, nodes), nodes)]
    return [_block(module, region, segment, data, layers) for segment in segments]


def single_layers(
    module: fx.GraphModule, block: Block, layers: Mapping[str, str], weighted: Collection[str]
) -> list[Block]:
    """A block's layers one by one, each with the functions of its result alone that follow.

    Args:
        module: The region.
        block: One of its blocks.
        layers: Node → the layer's name.
        weighted: The nodes of layers whose weight is quantized.
    """
    graph = module.graph
    data = _data(graph)
    # A placeholder may be called like a layer: one of the block in front.
    inside = {node.name for node in block.module.graph.nodes if node.op != "placeholder"}
    found = []
    for node in [n for n in graph.nodes if n.name in inside and n.name in weighted]:
        nodes = [s for s in _sources(node, data) if s.op == "call_module"] + [node]
        while (reader := _only_reader(nodes[-1], data)) is not None:
            nodes.append(reader)
        found.append(_block(module, block.region, nodes, data, layers))
    return found


def leading_to(module: fx.GraphModule, block: Block, outputs: tuple[fx.Node, ...]) -> Block:
    """The part of a block from its inputs to some nodes in it, or to its inputs themselves.

    Args:
        module: The region.
        block: One of its blocks.
        outputs: Nodes of the region's graph inside the block, or its inputs.
    """
    part = _extract(module, [], list(block.inputs), list(outputs))
    return Block(block.name, block.region, part, block.inputs, outputs)


def same_part(
    module: fx.GraphModule, inputs: Collection[fx.Node], outputs: Collection[fx.Node]
) -> fx.GraphModule:
    """The part from some nodes to others in another graph, in which they have the same names.

    Args:
        module: The other graph.
        inputs: Nodes, by whose names the part's inputs are found.
        outputs: Nodes, by whose names the part's outputs are found.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    own_inputs, own_outputs = ([nodes[n.name] for n in given] for given in (inputs, outputs))
    return _extract(module, [], own_inputs, own_outputs)


def _parts(graph: fx.Graph, data: set[fx.Node], layers: set[fx.Node]) -> list[list[fx.Node]]:
    """The nodes that carry data, in parts that have only the region's inputs in common.

    What has a weight in common, as a head that reads several feature maps, is one part.
    """
    nodes = [node for node in graph.nodes if node in data]
    parent: dict[fx.Node, fx.Node] = {}

    def first(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            parent[node] = node = parent[parent[node]]
        return node

    inner = [node for node in nodes if node.op != "placeholder"]
    for node in inner:
        parent[node] = node
        weights = _weights(node) if node in layers else []
        parent |= {weight: weight for weight in weights if weight not in parent}
        for source in [*_sources(node, data), *weights]:
            if source in parent:
                parent[first(node)] = first(source)
    parts: dict[fx.Node, list[fx.Node]] = {}
    for node in inner:
        parts.setdefault(first(node), []).append(node)
    if len(parts) < 2:
        return [nodes]
    inputs = [node for node in nodes if node.op == "placeholder"]
    return [[x for x in inputs if set(x.users) & set(part)] + part for part in parts.values()]


def _weights(layer: fx.Node) -> list[fx.Node]:
    """The parameter of a layer, or the quantizer behind it."""
    source: Any = layer.args[1]
    parameter = source.args[0] if source.op == "call_module" else source
    return [source] if parameter.op == "get_attr" else []


def _segments(graph: fx.Graph, nodes: list[fx.Node], layers: set[fx.Node]) -> list[list[fx.Node]]:
    """A part cut where one tensor is alive; what has no layer is joined to a neighbour."""
    segments: list[list[fx.Node]] = [[]]
    for node, cut in _walk(graph, nodes, layers):
        segments[-1].append(node)
        if cut:
            segments.append([])
    joined: list[list[fx.Node]] = []
    waiting: list[fx.Node] = []
    for segment in segments:
        if any(node in layers for node in segment):
            joined.append(waiting + segment)
            waiting = []
        elif joined and not waiting and _keeps_shape(joined[-1][-1], segment):
            joined[-1] += segment
        else:
            waiting += segment
    if joined:
        joined[-1] += waiting
    return joined


def _joined(segments: list[list[fx.Node]], layers: set[fx.Node]) -> list[list[fx.Node]]:
    """The segments, those joined from the first to the last that have a weight in common."""
    readers: dict[fx.Node, list[int]] = {}
    for i, segment in enumerate(segments):
        for weight in [w for node in segment if node in layers for w in _weights(node)]:
            readers.setdefault(weight, []).append(i)
    first = list(range(len(segments)))
    for places in readers.values():
        for i in range(places[0] + 1, places[-1] + 1):
            first[i] = min(first[i], places[0])
    found: list[list[fx.Node]] = []
    for i, segment in enumerate(segments):
        if first[i] < i and found:
            found[-1] = found[-1] + segment
        else:
            found.append(segment)
    return found


def _walk(
    graph: fx.Graph, order: list[fx.Node], layers: set[fx.Node]
) -> Iterator[tuple[fx.Node, bool]]:
    """Each node of a part, in order, and whether it is the only tensor alive behind it."""
    place = {node: i for i, node in enumerate(order)}
    behind = list(itertools.accumulate(node in layers for node in order))
    pyramid = len([leaf for leaf in results(graph) if leaf in place]) > 1

    def is_near(node: fx.Node, user: fx.Node) -> bool:
        return not pyramid or behind[place[user]] - behind[place[node]] <= LONG

    last = {
        node: max((place[u] for u in node.users if u in place and is_near(node, u)), default=-1)
        for node in order
    }
    alive: set[fx.Node] = set()
    for i, node in enumerate(order):
        if last[node] > i:
            alive.add(node)
        alive = {other for other in alive if last[other] > i}
        yield node, alive == {node} and _may_end(node)


def _may_end(node: fx.Node) -> bool:
    """A block ends in front of a quantizer, which so belongs to the block that reads it."""
    quantizer = node.op == "call_module"
    return (
        not quantizer
        and node.op != "placeholder"
        and isinstance(node.meta.get("val"), torch.Tensor)
    )


def _keeps_shape(before: fx.Node, segment: list[fx.Node]) -> bool:
    if not segment:
        return False
    values = [node.meta.get("val") for node in (before, segment[-1])]
    # As text: lengths that depend on values cannot be compared.
    shapes = [[str(n) for n in x.shape] if isinstance(x, torch.Tensor) else None for x in values]
    return shapes[0] is not None and shapes[0] == shapes[1]


def _block(
    module: fx.GraphModule,
    region: str,
    nodes: list[fx.Node],
    data: set[fx.Node],
    layers: Mapping[str, str],
) -> Block:
    inside = set(nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    outputs = []
    for node in nodes:
        inputs += [s for s in _sources(node, data) if s not in inside and s not in inputs]
        readers = [user for user in node.users if user not in inside and not is_number(user)]
        if readers and node.op != "placeholder":
            outputs.append(node)
    nodes = [n for n in nodes if n.op != "placeholder"]
    name = next((layers[n.name] for n in nodes if n.name in layers), nodes[0].name)
    part = _extract(module, nodes, inputs, outputs)
    return Block(name, region, part, tuple(inputs), tuple(outputs))


def _data(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose tensors depend on the model's inputs."""
    return {node for node in carries_data(graph) if node.op != "output" and not is_number(node)}


def _sources(node: fx.Node, data: set[fx.Node]) -> list[fx.Node]:
    """The tensors with data that a node reads."""
    return [source for source in tensor_inputs(node) if source in data]


def _extract(
    region: fx.GraphModule, nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]
) -> fx.GraphModule:
    """A graph of `nodes` alone, and of the constants and lengths that they read."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            if is_number(node) and node.target is A.sym_size.int and node.args[0] not in copies:
                copies[node] = _length(graph, node, copies[inputs[0]])
            else:
                for source in node.all_input_nodes:
                    copy(source)
                copies[node] = graph.node_copy(node, lambda n: copies[n])
        return copies[node]

    for node in nodes:
        copy(node)
    graph.output(tuple(copy(node) for node in outputs))
    graph.lint()
    return fx.GraphModule(region, graph)


def _length(graph: fx.Graph, node: fx.Node, source: fx.Node) -> fx.Node:
    """A length of a tensor that the block does not have: the batch, or what was seen at capture."""
    new = graph.call_function(A.sym_size.int, (source, 0))
    if node.args[1] != 0:
        graph.erase_node(new)
        value = node.meta["val"]
        new = graph.call_function(int, (value if isinstance(value, int) else value.node.hint,))
    new.meta = dict(node.meta)
    return new


def _only_reader(node: fx.Node, data: set[fx.Node]) -> fx.Node | None:
    """The only reader of a node, if it is a function of this node's value alone, value by value."""
    readers = list(node.users)
    if len(readers) != 1 or readers[0].op != "call_function":
        return None
    function = len(tensor_inputs(readers[0])) == 1 or limits_channels(readers[0])
    alone = _sources(readers[0], data) == [node]
    return readers[0] if alone and function and _keeps_shape(node, readers) else None
