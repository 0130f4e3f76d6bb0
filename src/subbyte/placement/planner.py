"""Which tensor of a region is quantized how, and who reads it so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from subbyte.graph.float_model import qualified
from subbyte.graph.layers import FoundLayer, carries_data, last_layers, results
from subbyte.graph.operators import (
    ADD,
    CONV,
    MUL,
    POINTWISE,
    POOL,
    is_global_pool,
    is_move,
    is_never_negative,
    is_relu,
    tensor_inputs,
    tensor_readers,
)
from subbyte.placement.layer_config import LayerConfig
from subbyte.recipe import Choice, Recipe, rule_of

OTHER_BITS = 8  # of tensors that no layer reads


@dataclass
class Site:
    """The numerics that one or more tensors share, while the plan grows.

    Attributes:
        bits: How many; `None`: no layer asks for any, and the tensors get `OTHER_BITS`.
        rule: The range rule.
        readers: Qualified names of the layers that read the tensors.
        symmetric: Symmetric, whatever the recipe says of other activations.
        spare: Nothing that reads it has an int8 kernel.
        merged: The site that this one has become a part of.
    """

    bits: int | None = None
    rule: Choice | None = None
    readers: list[str] = field(default_factory=list)
    symmetric: bool = False
    spare: bool = False
    merged: Site | None = None

    def root(self) -> Site:
        """The site that this one has become."""
        return self if self.merged is None else self.merged.root()

    def merge(self, other: Site) -> Site:
        """One site for both: the wider of the two, and all their readers."""
        here, there = self.root(), other.root()
        if here is there:
            return here
        if there.bits is not None and (here.bits is None or there.bits > here.bits):
            here.bits, here.rule = there.bits, there.rule
        here.symmetric = here.symmetric or there.symmetric
        here.spare = here.spare and there.spare
        here.readers = there.readers + [r for r in here.readers if r not in there.readers]
        there.merged = here
        return here


@dataclass
class RegionPlan:
    """Where activations of a region are quantized.

    Attributes:
        sites: Node → the numerics of its value.
        edges: Node → which of its readers read the quantized value.
        of_layer: Node of a layer → the sites of its inputs.
    """

    sites: dict[fx.Node, Site] = field(default_factory=dict)
    edges: dict[fx.Node, set[fx.Node]] = field(default_factory=dict)
    of_layer: dict[fx.Node, list[Site]] = field(default_factory=dict)


@dataclass(frozen=True)
class RegionGraph:
    """A region's graph with its layers, and what a recipe asks for them.

    Attributes:
        region: The region's name.
        graph: Its graph.
        layers: Its layers.
        configs: Name of a layer → what the recipe asks for it.
        inner: Placeholders that other regions lead to.
        ends: Results that no other region reads.
    """

    region: str
    graph: fx.Graph
    layers: tuple[FoundLayer, ...]
    configs: dict[str, LayerConfig]
    inner: frozenset[fx.Node]
    ends: frozenset[fx.Node]


def plan_of(part: RegionGraph, recipe: Recipe, given: Mapping[fx.Node, Site]) -> RegionPlan:
    """Walk the graph backwards: readers ask, and what they ask moves up to where values arise.

    Args:
        part: The region.
        recipe: What is asked for.
        given: Result → what other regions ask for it.
    """
    graph, layers, configs = part.graph, part.layers, part.configs
    plan, asked = RegionPlan(), dict[fx.Node, Site]()
    data = carries_data(graph)
    by_node = {layer.node: layer for layer in layers if layer.name in configs}
    rule = rule_of(recipe.ranges, "activations")
    always = _always_quantized(part, data)
    convolved = _derived(graph, always, {layer.node for layer in layers})

    def ask(node: fx.Node, reader: fx.Node, site: Site) -> None:
        plan.edges.setdefault(node, set()).add(reader)
        asked[node] = asked[node].merge(site) if node in asked else site

    for node in reversed(graph.nodes):
        if node.op == "output":
            for source in [n for n in results(graph) if n in given and n in data]:
                ask(source, node, given[source])
            continue
        if node in always and (node not in asked or asked[node].root().bits in (None, OTHER_BITS)):
            for user in [u for u in tensor_readers(node) if u not in plan.edges.get(node, ())]:
                ask(node, user, Site(None, rule, spare=True))
        if node in asked:
            site = asked[node].root()
            if is_move(node) and all_readers_ask(node, plan) and _only_data(node, data):
                for source in tensor_inputs(node):
                    ask(source, node, site)
                continue
            if _gives_several(node):
                for item in plan.edges[node]:
                    plan.sites[item] = asked[item].root()
                continue
            plan.sites[node] = site
            for reader, source in _quantized_along(node, data, convolved):
                ask(source, reader, Site(None, rule))
        layer = by_node.get(node)
        if layer is not None and configs[layer.name].activation_bits is not None:
            config, name = configs[layer.name], qualified(part.region, layer.name)
            for source in layer.inputs:
                if source in data:
                    site = Site(config.activation_bits, config.activation_rule, [name])
                    # OpenVINO has int8 kernels for products of zero point 0 alone.
                    site.symmetric = layer.operation == "matmul" and not is_never_negative(source)
                    ask(source, node, site)
                    plan.of_layer.setdefault(node, []).append(site)
    return plan


def all_readers_ask(node: fx.Node, plan: RegionPlan) -> bool:
    """Whether everything that reads a tensor reads it quantized."""
    return plan.edges.get(node, set()) == set(tensor_readers(node))


def _always_quantized(part: RegionGraph, data: set[fx.Node]) -> set[fx.Node]:
    """The results of convolutions that are quantized whoever reads them, past a ReLU perhaps.

    ONNX Runtime computes a convolution with an int8 kernel only if all that it gives is quantized.
    What the model gives stays in float.
    """
    last, found = last_layers(part.graph, part.layers, part.ends), set()
    for layer in part.layers:
        config = part.configs.get(layer.name)
        if layer.operation != "conv" or layer.name in last or config is None:
            continue
        quantized = config.weight is not None and config.activation_bits is not None
        if not quantized or layer.inputs[0] not in data:
            continue
        users = tensor_readers(layer.node)
        relu = len(users) == 1 and is_relu(users[0])
        found.add(users[0] if relu else layer.node)
    return found


def _gives_several(node: fx.Node) -> bool:
    """Whether a node's value is a tuple, so that only its parts can be quantized."""
    return isinstance(node.meta.get("val"), list | tuple)


def _only_data(node: fx.Node, data: set[fx.Node]) -> bool:
    return all(source in data for source in tensor_inputs(node))


def _derived(graph: fx.Graph, sources: set[fx.Node], layers: set[fx.Node]) -> set[fx.Node]:
    """The nodes all of whose values come from `sources`, past no other layer."""
    derived = set(sources)
    for node in graph.nodes:
        inputs = tensor_inputs(node)
        if inputs and node not in layers and all(source in derived for source in inputs):
            derived.add(node)
    return derived


def _quantized_along(
    node: fx.Node, data: set[fx.Node], convolved: set[fx.Node]
) -> list[tuple[fx.Node, fx.Node]]:
    """(reader, source) pairs to quantize as well, where `node`'s value is quantized.

    An addition or pooling whose result is quantized (after a ReLU, perhaps) has an int8 kernel if
    its inputs are quantized too, and so does a product of what convolutions gave: elsewhere it
    would cost accuracy and save no time. Inputs that do not depend on the model's input (a mask, a
    position embedding) stay in float.
    """
    if is_relu(node) and isinstance(node.args[0], fx.Node):
        if len(tensor_readers(node.args[0])) > 1:
            return []
        node = node.args[0]
    sources = tensor_inputs(node)
    if any(source not in data for source in sources):
        return []
    if node.target in MUL and any(source not in convolved for source in sources):
        return []
    if node.target in ADD | MUL and len(node.args) == 2 and node.kwargs.get("alpha", 1) == 1:
        both = all(isinstance(a, fx.Node) for a in node.args)
        return [(node, source) for source in sources] if both else []
    if node.target in POOL or is_global_pool(node):
        return [(node, sources[0])]
    return []


def spared_by_fusion(plan: RegionPlan) -> set[fx.Node]:
    """The nodes whose values a target that fuses kernels need not quantize, as OpenVINO.

    Nothing with an int8 kernel reads them, or they are within one kernel: OpenVINO computes a
    convolution and the function or sum that reads it in one kernel, in float, and a product with
    what a function gives likewise. There quantization would cost accuracy, and time as well. Of two
    convolutions that are summed, the second one's result is stored, and quantized.
    """
    uses = Counter(id(site.root()) for site in plan.sites.values())
    return {
        node
        for node, site in plan.sites.items()
        if site.root().bits is None
        and uses[id(site.root())] == 1
        and (site.root().spare or _is_fused(node))
    }


def _is_fused(node: fx.Node) -> bool:
    readers = tensor_readers(node)
    if node.target in POINTWISE:
        return all(reader.target in MUL for reader in readers)
    if node.target not in CONV:
        return False
    if len(readers) == 1 and readers[0].target in ADD:
        left = readers[0].args[0]
        first = isinstance(left, fx.Node) and left.target in CONV and len(tensor_readers(left)) == 1
        return left is node or not first
    return all(reader.target in POINTWISE or _is_gated(node, reader) for reader in readers)


def _is_gated(node: fx.Node, reader: fx.Node) -> bool:
    """Whether `reader` is a product of `node` and a function of it."""
    others = [arg for arg in reader.all_input_nodes if arg is not node]
    return reader.target in MUL and all(
        other.target in POINTWISE and other.args[0] is node for other in others
    )
