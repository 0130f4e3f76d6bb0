"""Which tensor gets which grid: the plan, and the quantizers put into the graph after it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx

from subbyte.errors import SubbyteError, unknown
from subbyte.graph.captured import QUANTIZERS, Captured, Layer, QuantizedTensor
from subbyte.graph.layers import Found, carries_data, find_layers, last_layers
from subbyte.graph.operators import (
    ADD,
    CONV,
    MUL,
    POINTWISE,
    POOL,
    get_tensor,
    is_global_pool,
    is_move,
    is_never_negative,
    is_relu,
    module_path,
    split_silu,
    tensor_inputs,
)
from subbyte.graph.requests import Request, qualified, requests_of
from subbyte.grid.fake_quantize import BiasQuantize, FakeQuantize
from subbyte.grid.spec import GridSpec
from subbyte.recipe import Choice, Recipe, rule_of

OTHER_BITS = 8  # of tensors that no layer reads
ORT = "onnxruntime"  # the runtime that computes on integers only what is on a grid on all sides


@dataclass
class Site:
    """A grid that one or more tensors share, while the plan grows. `merged`: it became another.

    symmetric: whatever the recipe says of other activations. spare: nothing that reads it computes
    on integers.
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
        """One site for both: the finer grid of the two, and all their readers."""
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
class Plan:
    """Where activations are put on a grid.

    sites: after which node a grid stands, and whose. edges: which of a node's readers read the
    quantized tensor. of_layer: the sites of each layer's inputs.
    """

    sites: dict[fx.Node, Site] = field(default_factory=dict)
    edges: dict[fx.Node, set[fx.Node]] = field(default_factory=dict)
    of_layer: dict[fx.Node, list[Site]] = field(default_factory=dict)


def annotate(captured: Captured, region: str) -> None:
    """Put the quantizers that the recipe asks for into one region, in state OFF.

    Raises:
        SubbyteError: There is nothing to quantize.
    """
    module = captured.region(region)
    split_silu(module.graph)
    layers = find_layers(module.graph)
    if not any(not layer.reason for layer in layers):
        raise SubbyteError(
            "the model has no convolution, linear layer or matrix product that could be quantized: "
            "give a model with at least one, or leave it in float"
        )
    requests = requests_of(module.graph, layers, captured.recipe, region)
    plan = _plan(module.graph, layers, requests, captured.recipe)
    _Inserter(captured, region, module, captured.recipe).insert(layers, requests, plan)


def check_overrides(recipe: Recipe, names: Iterable[str]) -> None:
    """Raise `SubbyteError` for an override that matches none of the layers `names`."""
    names = list(names)
    for pattern in recipe.overrides:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise SubbyteError(
                f"{unknown('layer in overrides', pattern, names)}; an override is a regular "
                "expression that must match the whole name of at least one layer"
            )


def _plan(
    graph: fx.Graph, layers: list[Found], requests: dict[str, Request], recipe: Recipe
) -> Plan:
    """Walk the graph backwards: readers ask, and what they ask moves up to where values arise."""
    plan, asked = Plan(), dict[fx.Node, Site]()
    data = carries_data(graph)
    by_node = {layer.node: layer for layer in layers if layer.name in requests}
    other = Choice(*rule_of(recipe.ranges, "activations"))
    results = _results_on_grid(graph, layers, requests, data)
    convolved = _derived(graph, results, {layer.node for layer in layers})

    def ask(node: fx.Node, reader: fx.Node, site: Site) -> None:
        plan.edges.setdefault(node, set()).add(reader)
        asked[node] = asked[node].merge(site) if node in asked else site

    for node in reversed(graph.nodes):
        if node in results and (node not in asked or asked[node].root().bits in (None, OTHER_BITS)):
            for user in [u for u in node.users if u not in plan.edges.get(node, ())]:
                ask(node, user, Site(None, other, spare=True))
        if node in asked:
            site = asked[node].root()
            if is_move(node) and _all_readers_ask(node, plan) and _only_data(node, data):
                for source in tensor_inputs(node):
                    ask(source, node, site)
                continue
            if _gives_several(node):
                for part in plan.edges[node]:
                    plan.sites[part] = asked[part].root()
                continue
            plan.sites[node] = site
            for reader, source in _kept_on_grid(node, data, convolved):
                ask(source, reader, Site(None, other))
        layer = by_node.get(node)
        if layer is not None and requests[layer.name].activation_bits is not None:
            request = requests[layer.name]
            for source in layer.inputs:
                if source in data:
                    site = Site(request.activation_bits, request.activation_rule, [layer.name])
                    # OpenVINO multiplies activations on integers only if their zero points are 0.
                    site.symmetric = layer.operation == "matmul" and not is_never_negative(source)
                    ask(source, node, site)
                    plan.of_layer.setdefault(node, []).append(site)
    return plan


def _results_on_grid(
    graph: fx.Graph, layers: list[Found], requests: dict[str, Request], data: set[fx.Node]
) -> set[fx.Node]:
    """The results of convolutions that are put on a grid whoever reads them, past a ReLU perhaps.

    ONNX Runtime computes a convolution on integers only if all that it gives is on a grid. What the
    model gives stays in float.
    """
    last, results = last_layers(graph, layers), set()
    for layer in layers:
        request = requests.get(layer.name)
        if layer.operation != "conv" or layer.name in last or request is None:
            continue
        on_grids = request.weight is not None and request.activation_bits is not None
        if not on_grids or layer.inputs[0] not in data:
            continue
        users = list(layer.node.users)
        relu = len(users) == 1 and is_relu(users[0])
        results.add(users[0] if relu else layer.node)
    return results


def _gives_several(node: fx.Node) -> bool:
    """Whether a node's value is a tuple, so that a grid can stand only behind each part."""
    return isinstance(node.meta.get("val"), list | tuple)


def _all_readers_ask(node: fx.Node, plan: Plan) -> bool:
    return plan.edges[node] == set(node.users)


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


def _kept_on_grid(
    node: fx.Node, data: set[fx.Node], convolved: set[fx.Node]
) -> list[tuple[fx.Node, fx.Node]]:
    """(reader, source) pairs to quantize as well, where `node`'s value is on a grid.

    An addition or pooling whose result is quantized (after a ReLU, perhaps) runs on integers if
    its inputs are, and so does a product of what convolutions gave: elsewhere a grid would cost
    accuracy and save no time. Inputs that do not depend on the model's input (a mask, a position
    embedding) stay in float.
    """
    if is_relu(node) and isinstance(node.args[0], fx.Node):
        if len(node.args[0].users) > 1:
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


def _for_one_runtime(plan: Plan) -> set[fx.Node]:
    """Behind which nodes a grid stands that OpenVINO needs not, unlike ONNX Runtime.

    Nothing that reads it computes on integers, or it is within one kernel: OpenVINO computes a
    convolution and the function or sum that reads it in one kernel, in float, and a product with
    what a function gives likewise. There a grid would cost accuracy, and time as well. Of two
    convolutions that are summed, the second one's result is stored, and on a grid.
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
    readers = list(node.users)
    if node.target in POINTWISE:
        return all(reader.target in MUL for reader in readers)
    if node.target not in CONV:
        return False
    if len(readers) == 1 and readers[0].target in ADD:
        left = readers[0].args[0]
        first = isinstance(left, fx.Node) and left.target in CONV and len(left.users) == 1
        return left is node or not first
    return all(reader.target in POINTWISE or _is_gated(node, reader) for reader in readers)


def _is_gated(node: fx.Node, reader: fx.Node) -> bool:
    """Whether `reader` is a product of `node` and a function of it."""
    others = [arg for arg in reader.all_input_nodes if arg is not node]
    return reader.target in MUL and all(
        other.target in POINTWISE and other.args[0] is node for other in others
    )


class _Inserter:
    """Puts quantizers into one region's graph and notes them in `captured`."""

    def __init__(
        self, captured: Captured, region: str, module: fx.GraphModule, recipe: Recipe
    ) -> None:
        self.captured, self.region, self.module, self.recipe = captured, region, module, recipe
        self.paths: dict[int, str] = {}  # id of a site, or of a weight's node → module path
        self.names: set[str] = set()

    def insert(self, layers: list[Found], requests: dict[str, Request], plan: Plan) -> None:
        spare = _for_one_runtime(plan)
        for node in [n for n in self.module.graph.nodes if n in plan.sites]:
            self._activation(node, plan, spare)
        for layer in layers:
            self._layer(layer, requests.get(layer.name), plan)
        self._sort()
        self.module.graph.lint()
        self.module.recompile()

    def _activation(self, node: fx.Node, plan: Plan, spare: set[fx.Node]) -> None:
        site, readers = plan.sites[node].root(), plan.edges[node]
        if id(site) not in self.paths:
            first = site.readers[0] if site.readers else _operation_name(node, readers)
            layer = self._unique(qualified(self.region, first))
            bits = OTHER_BITS if site.bits is None else site.bits
            if self.recipe.reduce_range and site.symmetric:
                bits = min(bits, 7)  # a factor of a product, where it is what a weight is elsewhere
            spec = GridSpec(bits, self.recipe.symmetric_activations or site.symmetric)
            path = self._add(f"activation_{node.name}", FakeQuantize(spec, layer))
            self.paths[id(site)] = path
            assert site.rule is not None
            names = tuple(qualified(self.region, r) for r in site.readers)
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
            self._bias(layer.node, activations[0], weight)
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

    def _bias(self, node: fx.Node, activation: str, weight: str) -> None:
        bias = node.args[2] if len(node.args) > 2 else None
        if not (isinstance(bias, fx.Node) and bias.op == "get_attr"):
            return
        grids = (self.module.get_submodule(activation), self.module.get_submodule(weight))
        assert isinstance(grids[0], FakeQuantize)
        assert isinstance(grids[1], FakeQuantize)
        path = self._add(f"bias_{node.name}", BiasQuantize(grids[0], grids[1]))
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
