"""The placement of a recipe on a model: a pure function of the two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import fx

from subbyte.errors import SubbyteError, unknown
from subbyte.graph.float_model import FloatModel, qualified
from subbyte.graph.flow import Place
from subbyte.graph.layers import FoundLayer, first_layers, last_layers, results
from subbyte.graph.operations import operations_of
from subbyte.graph.operators import get_tensor, module_path
from subbyte.numerics.qspec import QSpec
from subbyte.placement.layer_config import LayerConfig, layer_configs
from subbyte.placement.outputs import OutputPlan, plan_of_outputs
from subbyte.placement.placement import (
    Insertion,
    NarrowSum,
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

INPUTS = 16  # of an operation that patterns of `inputs` are looked for at


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
    collector = _Collector(float_model, recipe, hints)
    if recipe.outputs:
        for name, plan in output_plans(float_model, parts, recipe).items():
            collector.add_outputs(parts[name], plan)
        return collector.placement()
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
    for name in float_model.region_names:
        collector.add(parts[name], plans[name])
    return collector.placement()


def output_plans(
    float_model: FloatModel, parts: Mapping[str, RegionGraph], recipe: Recipe
) -> dict[str, OutputPlan]:
    """Region → where its activations are quantized by the recipe's `outputs` and `inputs`.

    Args:
        float_model: The model.
        parts: Its regions.
        recipe: What is asked for.
    """
    plans: dict[str, OutputPlan] = {}
    for name in float_model.region_names:
        given = {}
        for i, node in enumerate(_placeholders(parts[name].graph)):
            source = float_model.flow.links.get((name, i))
            if source is not None and source[0] in plans:
                leaf = results(parts[source[0]].graph)[source[1]]
                if leaf in plans[source[0]].held:
                    given[node] = plans[source[0]].held[leaf]
        operations = operations_of(float_model, name)
        plans[name] = plan_of_outputs(name, operations, parts[name].configs, recipe, given)
    return plans


def region_graphs(float_model: FloatModel, recipe: Recipe) -> dict[str, RegionGraph]:
    """The regions of a model, with what a recipe asks for their layers."""
    return {name: _part(float_model, name, recipe) for name in float_model.region_names}


def _check_grids(recipe: Recipe, operations: Sequence[tuple[str, ...]]) -> None:
    """Raise `SubbyteError` for a grid that matches no operation."""
    first = [names[0] for names in operations]
    for key, grids in (("outputs", recipe.outputs), ("inputs", recipe.inputs)):
        for pattern in grids:
            if key == "outputs":
                found = any(re.fullmatch(pattern, name) for names in operations for name in names)
            else:
                found = any(
                    re.fullmatch(pattern, f"{name}#{i}")
                    for names in operations
                    for name in names
                    for i in range(INPUTS)
                )
            if not found:
                raise SubbyteError(
                    f"{unknown(f'operation in {key}', pattern, first)}; a pattern is a regular "
                    "expression that must match the whole name of at least one operation"
                    + (", with # and the number of its input" if key == "inputs" else "")
                )


def check_overrides(recipe: Recipe, float_model: FloatModel) -> None:
    """Raise `SubbyteError` for an override that matches none of a model's layers.

    Beside `outputs` it may match an operation as well, and so does each pattern of a grid.
    """
    names = list(float_model.layer_names)
    if recipe.outputs:
        operations = [
            operation.names
            for region in float_model.region_names
            for operation in operations_of(float_model, region)
        ]
        _check_grids(recipe, operations)
        names += [name for its in operations for name in its]
    for pattern in recipe.overrides:
        if not any(re.fullmatch(pattern, name) for name in names):
            whole = _with_region(pattern, float_model)
            if whole is not None:
                raise SubbyteError(
                    f"unknown layer in overrides '{pattern}': write '{whole}', for the name of a "
                    "layer begins with its region's"
                )
            raise SubbyteError(
                f"{unknown('layer in overrides', pattern, names)}; an override is a regular "
                "expression that must match the whole name of at least one layer"
            )


def _with_region(pattern: str, float_model: FloatModel) -> str | None:
    """A pattern that matches the name of a layer within its region, as a pattern of the whole."""
    for region, layers in float_model.layers.items():
        if region and any(re.fullmatch(pattern, layer.name) for layer in layers):
            return rf"{re.escape(region)}\.{pattern}"
    return None


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
        self.sums: list[NarrowSum] = []

    def placement(self) -> Placement:
        return Placement(
            self.recipe,
            tuple(self.tensors),
            tuple(self.layers),
            tuple(self.insertions),
            tuple(self.biases),
            tuple(self.sums),
        )

    def add(self, part: RegionGraph, plan: RegionPlan) -> None:
        spared = spared_by_fusion(plan)
        for node in [n for n in part.graph.nodes if n in plan.sites]:
            self._activation(part, plan, node, spared)
        for layer in part.layers:
            sites = [site.root() for site in plan.of_layer.get(layer.node, [])]
            self._layer(part, layer, tuple(self.keys[id(site)] for site in sites))
        self._sort(part)

    def add_outputs(self, part: RegionGraph, plan: OutputPlan) -> None:
        for placed in plan.placed:
            self.tensors.append(placed.tensor)
            key = placed.tensor.key
            self.insertions.append(Insertion(part.region, key, placed.node.name, placed.readers))
        for layer in part.layers:
            keys = tuple(plan.of_layer.get(layer.node, ()))
            self._layer(part, layer, keys, plan.results.get(layer.node))
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

    def _layer(
        self,
        part: RegionGraph,
        layer: FoundLayer,
        activations: tuple[str, ...],
        output: str | None = None,
    ) -> None:
        name = qualified(part.region, layer.name)
        config = part.configs.get(layer.name)
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
        if weight is not None and activations:
            assert config is not None
            self._sum(part, layer, config, (activations[0], weight, output))
        reason = layer.reason or ("" if weight or activations else "the recipe leaves it in float")
        self.layers.append(
            PlacedLayer(
                name, layer.operation, part.region, layer.node.name, weight, activations, reason
            )
        )

    def _sum(
        self,
        part: RegionGraph,
        layer: FoundLayer,
        config: LayerConfig,
        keys: tuple[str, str, str | None],
    ) -> None:
        """Simulate the sums of a layer as integers, where they are not those of the runtimes."""
        activation, weight, output = keys
        grids = {tensor.key: tensor.grid for tensor in self.tensors}
        grid = grids.get(output) if output is not None else None
        scale_bits = None if grid is None else grid.scale_bits
        if config.accumulator < 32 or scale_bits is not None:
            name, node = qualified(part.region, layer.name), layer.node.name
            self.sums.append(
                NarrowSum(
                    part.region,
                    name,
                    node,
                    config.accumulator,
                    activation,
                    weight,
                    output,
                    scale_bits,
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
