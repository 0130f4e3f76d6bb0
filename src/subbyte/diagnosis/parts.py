"""The parts of a simulation whose errors are measured, and which nodes make each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from subbyte.graph.float_model import parameter_name
from subbyte.numerics.fake_quantize import BiasQuantize, Quantizer
from subbyte.numerics.integer_sums import IntegerSums
from subbyte.placement.insert import QUANTIZERS, sums_path
from subbyte.placement.placement import PlacedLayer, node_names
from subbyte.placement.simulation import Simulation

OPERATION = "operation"  # the kind of what is quantized for sums or pooling, and no layer reads
Place = tuple[str, str]  # a region, and the name of a node in its graph
Switched = Mapping[str, frozenset[str]]  # region → the nodes that quantize


@dataclass(frozen=True)
class Part:
    """A layer, or a quantized tensor that no layer reads.

    Attributes:
        name: The layer's qualified name, or the tensor's.
        kind: "conv", "linear", "matmul" or "operation".
        region: Where it is.
        results: The nodes whose values are compared; several where a layer runs several times, or
            tensors share a quantizer.
        weight: The key of its weight; `None`: in float, or it has none.
        activations: The keys of what it reads.
        reason: Why nothing of it is quantized; empty where something is.
        of_weight: The nodes that quantize its weight, its bias and its sums.
        of_activations: Those that quantize what it reads.
    """

    name: str
    kind: str
    region: str
    results: tuple[Place, ...]
    weight: str | None
    activations: tuple[str, ...]
    reason: str = ""
    of_weight: frozenset[Place] = frozenset()
    of_activations: frozenset[Place] = frozenset()

    @property
    def is_quantized(self) -> bool:
        """Whether anything of it is quantized."""
        return bool(self.of_weight or self.of_activations)


@dataclass
class _Nodes:
    """The nodes of a simulation that quantize.

    Attributes:
        of_key: Key of a tensor → the calls of its quantizer.
        changed: Name of a parameter that a method has changed → the nodes that read it.
        graphs: Region → name → node.
    """

    of_key: dict[str, list[Place]] = field(default_factory=dict)
    changed: dict[str, list[Place]] = field(default_factory=dict)
    graphs: dict[str, dict[str, fx.Node]] = field(default_factory=dict)

    def of(self, keys: Iterable[str | None]) -> Iterator[Place]:
        """The calls of some tensors' quantizers."""
        return (place for key in keys if key is not None for place in self.of_key.get(key, []))


def parts_of(simulation: Simulation) -> list[Part]:
    """The layers of a simulation and what else is quantized in it, in the order of the network."""
    nodes = _nodes(simulation)
    layers = simulation.placement.layers
    found = _joined([_layer(simulation, layer, nodes) for layer in layers])
    read = {key for layer in layers for key in layer.activations}
    taken = {layer.name for layer in layers}
    for tensor in simulation.placement.of_role("activation"):
        places = tuple(nodes.of([tensor.key]))
        if tensor.key not in read and places:
            name = tensor.layer if tensor.layer not in taken else f"{tensor.layer} (result)"
            found.append(
                Part(
                    name=name,
                    kind=OPERATION,
                    region=tensor.region,
                    results=places,
                    weight=None,
                    activations=(tensor.key,),
                    of_activations=frozenset(places),
                )
            )
    order = {
        (region, name): (i, j)
        for i, region in enumerate(simulation.region_names)
        for j, name in enumerate(nodes.graphs[region])
    }
    return sorted(found, key=lambda part: order[part.results[0]])


def _joined(parts: Iterable[Part]) -> list[Part]:
    """The same, where a layer that runs several times is one."""
    found: dict[str, Part] = {}
    for part in parts:
        known = found.get(part.name)
        if known is not None:
            part = replace(
                known,
                results=(*known.results, *part.results),
                activations=tuple(dict.fromkeys([*known.activations, *part.activations])),
                reason=known.reason if part.reason else "",
                of_weight=known.of_weight | part.of_weight,
                of_activations=known.of_activations | part.of_activations,
            )
        found[part.name] = part
    return list(found.values())


def switched(*places: Iterable[Place]) -> Switched:
    """Nodes by their region."""
    found: dict[str, set[str]] = {}
    for some in places:
        for region, name in some:
            found.setdefault(region, set()).add(name)
    return {region: frozenset(names) for region, names in found.items()}


def all_switched(simulation: Simulation) -> Switched:
    """Every node that makes the simulation differ from the float model."""
    changed = simulation.params.biases
    found: set[Place] = set()
    for region in simulation.region_names:
        for node in simulation.region(region).graph.nodes:
            target = str(node.target)
            quantizes = node.op == "call_module" and target.startswith(f"{QUANTIZERS}.")
            has_changed = node.op == "get_attr" and parameter_name(region, target) in changed
            if quantizes or has_changed:
                found.add((region, node.name))
    return switched(found)


def _nodes(simulation: Simulation) -> _Nodes:
    found = _Nodes()
    keys = {id(quantizer): tensor.key for tensor, quantizer in simulation.quantizers()}
    changed = simulation.params.biases
    for region in simulation.region_names:
        module = simulation.region(region)
        found.graphs[region] = node_names(module.graph)
        for node in module.graph.nodes:
            if node.op == "call_module":
                quantizer = module.get_submodule(str(node.target))
                if isinstance(quantizer, Quantizer) and id(quantizer) in keys:
                    key = keys[id(quantizer)]
                    found.of_key.setdefault(key, []).append((region, node.name))
            elif node.op == "get_attr":
                name = parameter_name(region, str(node.target))
                if name in changed:
                    found.changed.setdefault(name, []).append((region, node.name))
    return found


def _layer(simulation: Simulation, layer: PlacedLayer, nodes: _Nodes) -> Part:
    region = simulation.region(layer.region)
    node = nodes.graphs[layer.region].get(layer.node)
    if node is None:  # its sums are simulated as integers
        path = sums_path(layer.node)
        node = next(n for n in region.graph.nodes if n.target == path)
    own = {(layer.region, name) for name in _behind(region, node, nodes, layer.region)}
    return Part(
        name=layer.name,
        kind=layer.operation,
        region=layer.region,
        results=((layer.region, node.name),),
        weight=layer.weight,
        activations=layer.activations,
        reason=layer.reason,
        of_weight=frozenset({*nodes.of([layer.weight]), *own}),
        of_activations=frozenset(nodes.of(layer.activations)),
    )


def _behind(region: fx.GraphModule, node: fx.Node, nodes: _Nodes, name: str) -> Iterator[str]:
    """The names of the nodes that make a layer's bias and its integer sums."""
    if node.op == "call_module" and isinstance(region.get_submodule(str(node.target)), IntegerSums):
        yield node.name
    changed = {place for places in nodes.changed.values() for place in places}
    for read in node.all_input_nodes:
        source = read
        if read.op == "call_module" and isinstance(
            region.get_submodule(str(read.target)), BiasQuantize
        ):
            yield read.name
            source = read.all_input_nodes[0]
        if (name, source.name) in changed:
            yield source.name
