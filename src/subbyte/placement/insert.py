"""The quantizers that a recipe asks for, put into the graphs of a model's regions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from torch import fx

from subbyte.errors import SubbyteError, unknown
from subbyte.graph.flow import Place
from subbyte.graph.layers import Found, find_layers, first_layers, last_layers, results
from subbyte.graph.operators import get_tensor, module_path, split_silu
from subbyte.numerics.fake_quantize import BiasQuantize, FakeQuantize
from subbyte.numerics.qspec import QSpec
from subbyte.placement.layer_config import Request, qualified, requests_of
from subbyte.placement.planner import (
    ORT,
    OTHER_BITS,
    Part,
    Plan,
    Site,
    all_readers_ask,
    for_one_runtime,
    plan_of,
)
from subbyte.placement.simulation import QUANTIZERS, Captured, Layer, QuantizedTensor
from subbyte.recipe import Recipe


def annotate(captured: Captured) -> None:
    """Put the quantizers that the recipe asks for into all regions, in state OFF.

    What one region gives and others read has its grid where it arises, once, if all that read it
    ask for one.

    Raises:
        SubbyteError: There is nothing to quantize.
    """
    parts = {name: _part(captured, name) for name in captured.region_names}
    plans: dict[str, Plan] = {}
    asked: dict[Place, Site] = {}  # by the region that reads, and the number of its input
    for name in reversed(captured.region_names):
        plans[name] = plan_of(parts[name], captured.recipe, _handed(captured, parts, plans, asked))
        sites = plans[name].sites
        uses = Counter(id(site.root()) for site in sites.values())
        for place, node in enumerate(_placeholders(parts[name].graph)):
            linked = (name, place) in captured.flow.links and node in sites
            # A grid that is shared with tensors of this region (by a concatenation) stays here.
            if linked and uses[id(sites[node].root())] == 1 and all_readers_ask(node, plans[name]):
                asked[name, place] = sites[node]
    inserter = _Inserter(captured)
    for name in captured.region_names:
        inserter.insert(parts[name], plans[name])


def _part(captured: Captured, region: str) -> Part:
    graph, flow = captured.region(region).graph, captured.flow
    split_silu(graph)
    layers = find_layers(graph)
    if not any(not layer.reason for layer in layers):
        what = f"region '{region}'" if region else "model"
        raise SubbyteError(
            f"the {what} has no convolution, linear layer or matrix product that could be "
            "quantized: give one with at least one, or leave it in float"
        )
    inputs = enumerate(_placeholders(graph))
    inner = frozenset(node for i, node in inputs if (region, i) in flow.inner)
    leaves = [(i, leaf) for i, leaf in enumerate(results(graph)) if isinstance(leaf, fx.Node)]
    ends = frozenset(leaf for i, leaf in leaves if not flow.readers((region, i)))
    edge = first_layers(graph, layers, inner) | last_layers(graph, layers, ends)
    requests = requests_of(layers, edge, captured.recipe, region)
    return Part(region, graph, layers, requests, inner, ends)


def _handed(
    captured: Captured, parts: dict[str, Part], plans: dict[str, Plan], asked: dict[Place, Site]
) -> dict[fx.Node, Site]:
    """What the regions planned so far ask for results of the one before; it is theirs no more."""
    region = captured.region_names[-1 - len(plans)]
    handed: dict[fx.Node, Site] = {}
    for i, leaf in enumerate(results(parts[region].graph)):
        readers = captured.flow.readers((region, i))
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


def check_overrides(recipe: Recipe, names: Iterable[str]) -> None:
    """Raise `SubbyteError` for an override that matches none of the layers `names`."""
    names = list(names)
    for pattern in recipe.overrides:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise SubbyteError(
                f"{unknown('layer in overrides', pattern, names)}; an override is a regular "
                "expression that must match the whole name of at least one layer"
            )


class _Inserter:
    """Puts quantizers into the graphs, one region after the other, and notes them in `captured`."""

    def __init__(self, captured: Captured) -> None:
        self.captured, self.recipe = captured, captured.recipe
        self.paths: dict[int, str] = {}  # id of a site, or of a weight's node → module path
        self.grids: dict[int, FakeQuantize] = {}  # likewise
        self.names: set[str] = set()

    def insert(self, part: Part, plan: Plan) -> None:
        self.region, self.module = part.region, self.captured.region(part.region)
        spare = for_one_runtime(plan)
        for node in [n for n in self.module.graph.nodes if n in plan.sites]:
            self._activation(node, plan, spare)
        for layer in part.layers:
            self._layer(layer, part.requests.get(layer.name), plan)
        self._sort()
        self.module.graph.lint()
        self.module.recompile()

    def _activation(self, node: fx.Node, plan: Plan, spare: set[fx.Node]) -> None:
        site, readers = plan.sites[node].root(), plan.edges[node]
        if id(site) not in self.paths:
            first = site.readers[0] if site.readers else ""
            first = first or qualified(self.region, _operation_name(node, readers))
            layer = self._unique(first)
            bits = OTHER_BITS if site.bits is None else site.bits
            if self.recipe.reduce_range and site.symmetric:
                bits = min(bits, 7)  # a factor of a product, where it is what a weight is elsewhere
            spec = QSpec(bits, self.recipe.symmetric_activations or site.symmetric)
            self.grids[id(site)] = FakeQuantize(spec, layer)
            path = self._add(f"activation_{node.name}", self.grids[id(site)])
            self.paths[id(site)] = path
            assert site.rule is not None
            names = tuple(site.readers)
            runtime = ORT if node in spare else None
            self.captured.tensors.append(
                QuantizedTensor(
                    layer, "activation", self.region, path, site.rule, names, runtime=runtime
                )
            )
        with self.module.graph.inserting_after(node):
            new = self.module.graph.call_module(self.paths[id(site)], (node,))
        new.meta = dict(node.meta)
        for reader in readers:
            reader.replace_input_with(node, new)

    def _layer(self, layer: Found, request: Request | None, plan: Plan) -> None:
        name = qualified(self.region, layer.name)
        sites = [site.root() for site in plan.of_layer.get(layer.node, [])]
        activations = tuple(self.paths[id(site)] for site in sites)
        weight = None
        if request is not None and request.weight is not None and layer.weight is not None:
            weight = self._weight(layer, layer.weight, name, request)
        if weight is not None and activations:
            self._bias(layer.node, self.grids[id(sites[0])], self.grids[id(layer.weight)])
        reason = layer.reason or ("" if weight or activations else "the recipe leaves it in float")
        self.captured.layers.append(
            Layer(name, layer.operation, self.region, layer.node.name, weight, activations, reason)
        )

    def _weight(self, layer: Found, node: fx.Node, name: str, request: Request) -> str:
        spec = request.weight
        assert spec is not None
        if id(node) not in self.paths:
            channels = 1 if spec.axis is None else get_tensor(self.module, node).shape[spec.axis]
            quantizer = FakeQuantize(spec, name, int(channels))
            self.grids[id(node)] = quantizer
            self.paths[id(node)] = path = self._add(f"weight_{node.name}", quantizer)
            self.captured.tensors.append(
                QuantizedTensor(
                    name,
                    "weight",
                    self.region,
                    path,
                    request.weight_rule,
                    (name,),
                    str(node.target),
                )
            )
            with self.module.graph.inserting_after(node):
                new = self.module.graph.call_module(path, (node,))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        return self.paths[id(node)]

    def _bias(self, node: fx.Node, activation: FakeQuantize, weight: FakeQuantize) -> None:
        bias = node.args[2] if len(node.args) > 2 else None
        if not (isinstance(bias, fx.Node) and bias.op == "get_attr"):
            return
        path = self._add(f"bias_{node.name}", BiasQuantize(activation, weight))
        with self.module.graph.inserting_before(node):
            new = self.module.graph.call_module(path, (bias,))
        new.meta = dict(bias.meta)
        node.args = (*node.args[:2], new, *node.args[3:])

    def _sort(self) -> None:
        """Put the region's tensors into the order in which the graph reads them."""
        order = {node: i for i, node in enumerate(self.module.graph.nodes)}
        first: dict[str, int] = {}
        for node in self.module.graph.nodes:
            if node.op == "call_module":
                read = min((order[user] for user in node.users), default=len(order))
                first[str(node.target)] = min(first.get(str(node.target), read), read)
        here = [t for t in self.captured.tensors if t.region == self.region]
        rest = [t for t in self.captured.tensors if t.region != self.region]
        self.captured.tensors = rest + sorted(here, key=lambda t: first[t.module])

    def _add(self, name: str, quantizer: FakeQuantize | BiasQuantize) -> str:
        path = f"{QUANTIZERS}.{name}"
        self.module.add_submodule(path, quantizer)
        return path

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
