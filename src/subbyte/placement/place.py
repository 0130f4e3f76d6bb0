"""The placement of a recipe on a model: a pure function of the two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from torch import fx

from subbyte.errors import SubbyteError, unknown
from subbyte.graph.float_model import FloatModel, qualified
from subbyte.graph.flow import Place
from subbyte.graph.layers import FoundLayer, first_layers, last_layers, results
from subbyte.graph.operators import get_tensor, module_path
from subbyte.numerics.qspec import QSpec
from subbyte.placement.layer_config import LayerConfig, layer_configs
from subbyte.placement.placement import (
    Insertion,
    PlacedLayer,
    Placement,
    QuantizedBias,
    QuantizedTensor,
    TargetHints,
)
from subbyte.placement.planner import (
    OTHER_BITS,
    RegionGraph,
    RegionPlan,
    Site,
    all_readers_ask,
    plan_of,
    spared_by_fusion,
)
from subbyte.recipe import Recipe


def place(float_model: FloatModel, recipe: Recipe, hints: Sequence[TargetHints] = ()) -> Placement:
    """Decide which tensors of a model are quantized, and how.

    What one region gives and others read is quantized where it arises, once, if all that read it
    ask for it.

    Args:
        float_model: The model.
        recipe: What is asked for.
        hints: The targets that files will be written for.

    Raises:
        SubbyteError: An override matches no layer.
    """
    check_overrides(recipe, float_model)
    parts = {name: _part(float_model, name, recipe) for name in float_model.region_names}
    plans: dict[str, RegionPlan] = {}
    asked: dict[Place, Site] = {}  # by the region that reads, and the number of its input
    for name in reversed(float_model.region_names):
        given = _handed(float_model, parts, plans, asked)
        plans[name] = plan_of(parts[name], recipe, given)
        sites = plans[name].sites
        uses = Counter(id(site.root()) for site in sites.values())
        for i, node in enumerate(_placeholders(parts[name].graph)):
            linked = (name, i) in float_model.flow.links and node in sites
            # What shares its numerics with tensors of this region (by a concatenation) stays here.
            if linked and uses[id(sites[node].root())] == 1 and all_readers_ask(node, plans[name]):
                asked[name, i] = sites[node]
    collector = _Collector(float_model, recipe, hints)
    for name in float_model.region_names:
        collector.add(parts[name], plans[name])
    return collector.placement()


def check_overrides(recipe: Recipe, float_model: FloatModel) -> None:
    """Raise `SubbyteError` for an override that matches none of a model's layers."""
    names = float_model.layer_names
    for pattern in recipe.overrides:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise SubbyteError(
                f"{unknown('layer in overrides', pattern, names)}; an override is a regular "
                "expression that must match the whole name of at least one layer"
            )


def _part(float_model: FloatModel, region: str, recipe: Recipe) -> RegionGraph:
    graph, flow = float_model.region(region).graph, float_model.flow
    layers = float_model.layers[region]
    inputs = enumerate(_placeholders(graph))
    inner = frozenset(node for i, node in inputs if (region, i) in flow.inner)
    leaves = [(i, leaf) for i, leaf in enumerate(results(graph)) if isinstance(leaf, fx.Node)]
    ends = frozenset(leaf for i, leaf in leaves if not flow.readers((region, i)))
    edge = first_layers(graph, layers, inner) | last_layers(graph, layers, ends)
    configs = layer_configs(layers, edge, recipe, region)
    return RegionGraph(region, graph, layers, configs, inner, ends)


def _handed(
    float_model: FloatModel,
    parts: dict[str, RegionGraph],
    plans: dict[str, RegionPlan],
    asked: dict[Place, Site],
) -> dict[fx.Node, Site]:
    """What the regions planned so far ask for results of the one before; it is theirs no more."""
    region = float_model.region_names[-1 - len(plans)]
    handed: dict[fx.Node, Site] = {}
    for i, leaf in enumerate(results(parts[region].graph)):
        readers = float_model.flow.readers((region, i))
        alone = isinstance(leaf, fx.Node) and leaf.op != "placeholder"
        if not readers or not alone or any(reader not in asked for reader in readers):
            continue
        for reader in readers:
            handed[leaf] = handed[leaf].merge(asked[reader]) if leaf in handed else asked[reader]
            node = _placeholders(parts[reader[0]].graph)[reader[1]]
            del plans[reader[0]].sites[node]
    return handed


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


class _Collector:
    """Turns the plans of the regions, one after the other, into a placement."""

    def __init__(
        self, float_model: FloatModel, recipe: Recipe, hints: Sequence[TargetHints]
    ) -> None:
        self.float_model, self.recipe = float_model, recipe
        wanting = tuple(hint.name for hint in hints if hint.quantized_results)
        # Where no target can do without, or none is asked, nothing is for some alone.
        self.only_for = wanting if len(wanting) < len(hints) else ()
        self.keys: dict[int, str] = {}  # id of a site → key
        self.weights: dict[str, fx.Node] = {}  # key of a weight → its node
        self.names: set[str] = set()
        self.tensors: list[QuantizedTensor] = []
        self.layers: list[PlacedLayer] = []
        self.insertions: list[Insertion] = []
        self.biases: list[QuantizedBias] = []

    def placement(self) -> Placement:
        return Placement(
            self.recipe,
            tuple(self.tensors),
            tuple(self.layers),
            tuple(self.insertions),
            tuple(self.biases),
        )

    def add(self, part: RegionGraph, plan: RegionPlan) -> None:
        spared = spared_by_fusion(plan)
        for node in [n for n in part.graph.nodes if n in plan.sites]:
            self._activation(part, plan, node, spared)
        for layer in part.layers:
            self._layer(part, plan, layer)
        self._sort(part)

    def _activation(
        self, part: RegionGraph, plan: RegionPlan, node: fx.Node, spared: set[fx.Node]
    ) -> None:
        site, readers = plan.sites[node].root(), plan.edges[node]
        if id(site) not in self.keys:
            first = site.readers[0] if site.readers else ""
            first = first or qualified(part.region, _operation_name(node, readers))
            layer = self._unique(first)
            bits = OTHER_BITS if site.bits is None else site.bits
            if self.recipe.reduce_range and site.symmetric:
                bits = min(bits, 7)  # a factor of a product, where it is what a weight is elsewhere
            assert site.rule is not None
            tensor = QuantizedTensor(
                key=f"{layer}.activation",
                layer=layer,
                role="activation",
                region=part.region,
                spec=QSpec(bits, self.recipe.symmetric_activations or site.symmetric),
                rule=site.rule,
                readers=tuple(site.readers),
                only_for=self.only_for if node in spared else (),
            )
            self.keys[id(site)] = tensor.key
            self.tensors.append(tensor)
        key, names = self.keys[id(site)], frozenset(reader.name for reader in readers)
        self.insertions.append(Insertion(part.region, key, node.name, names))

    def _layer(self, part: RegionGraph, plan: RegionPlan, layer: FoundLayer) -> None:
        name = qualified(part.region, layer.name)
        config = part.configs.get(layer.name)
        sites = [site.root() for site in plan.of_layer.get(layer.node, [])]
        activations = tuple(self.keys[id(site)] for site in sites)
        weight = None
        if config is not None and config.weight is not None and layer.weight is not None:
            weight = self._weight(part, layer, name, config)
        bias = layer.node.args[2] if len(layer.node.args) > 2 else None
        reads_parameter = isinstance(bias, fx.Node) and bias.op == "get_attr"
        if weight is not None and activations and reads_parameter:
            assert isinstance(bias, fx.Node)
            self.biases.append(
                QuantizedBias(part.region, layer.node.name, bias.name, activations[0], weight)
            )
        reason = layer.reason or ("" if weight or activations else "the recipe leaves it in float")
        self.layers.append(
            PlacedLayer(
                name, layer.operation, part.region, layer.node.name, weight, activations, reason
            )
        )

    def _weight(self, part: RegionGraph, layer: FoundLayer, name: str, config: LayerConfig) -> str:
        spec, node, key = config.weight, layer.weight, f"{name}.weight"
        assert spec is not None
        assert node is not None
        if key not in self.weights:
            module = self.float_model.region(part.region)
            channels = 1 if spec.axis is None else int(get_tensor(module, node).shape[spec.axis])
            tensor = QuantizedTensor(
                key=key,
                layer=name,
                role="weight",
                region=part.region,
                spec=spec,
                rule=config.weight_rule,
                readers=(name,),
                source=str(node.target),
                channels=channels,
            )
            # What is no layer reads the weight as the first of its layers does.
            first = node not in self.weights.values()
            own = {x.node for x in part.layers if x.weight is node and x.name == layer.name}
            others = {x.node for x in part.layers if x.weight is node} - own
            readers = set(node.users) - others if first else own
            self.weights[key] = node
            self.tensors.append(tensor)
            names = frozenset(reader.name for reader in readers)
            self.insertions.append(Insertion(part.region, key, node.name, names))
        return key

    def _sort(self, part: RegionGraph) -> None:
        """Put the region's tensors into the order in which the graph reads them."""
        order = {node.name: i for i, node in enumerate(part.graph.nodes)}
        first: dict[str, int] = {}
        for insertion in self.insertions:
            if insertion.region == part.region:
                read = min((order[name] for name in insertion.readers), default=len(order))
                first[insertion.key] = min(first.get(insertion.key, read), read)
        here = [t for t in self.tensors if t.region == part.region]
        rest = [t for t in self.tensors if t.region != part.region]
        self.tensors = rest + sorted(here, key=lambda t: first[t.key])

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}#{count}"
        self.names.add(unique)
        return unique


def _operation_name(node: fx.Node, readers: set[fx.Node]) -> str:
    """A name for a tensor that no layer reads: the module and the operator that do read it."""
    reader = min(readers, key=lambda n: n.name) if readers else node
    path = module_path(reader)
    operation = str(getattr(reader.target, "__name__", reader.target)).split(".")[0]
    return f"{path}.{operation}" if path else operation
