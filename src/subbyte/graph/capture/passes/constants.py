"""Constant folding: what depends on parameters alone, a standardized weight, is computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.operators import CONV, LINEAR, TRANSPOSED, get_tensor, module_path, put_tensor


def fold_constants(module: fx.GraphModule) -> None:
    """Replace what depends on nothing but parameters and buffers by its value, in place.

    A layer whose weight is standardized, scaled or normalized while the model runs so becomes one
    with a weight, and keeps its name. A value with more elements than what it is computed from (a
    table of position biases, spread out) stays computed, so that models do not grow.
    """
    # All values first: one that is folded may be computed from another that is folded too.
    found = {node: (_value(module, node), _sources(node)) for node in _foldable(module)}
    folded = {}
    for node, value_and_sources in found.items():
        new = module.graph.create_node("get_attr", node.name)
        node.prepend(new)
        new.meta = dict(node.meta)
        folded[new] = value_and_sources
        node.replace_all_uses_with(new)
    read = _read(module.graph) - {str(node.target) for node in folded}
    for node, (value, sources) in folded.items():
        names = [*_replaced(module, value, sources), *_names(module, node)]
        node.target = next(name for name in names if name not in read)
        read.add(node.target)
    for node, (value, _) in folded.items():
        _put(module, str(node.target), value)
    module.graph.eliminate_dead_code()
    module.recompile()


def _read(graph: fx.Graph) -> set[str]:
    """The names of all parameters and buffers that an output depends on."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in live or node.op == "output" or _writes(node):
            live.update([node, *node.all_input_nodes])
    return {str(node.target) for node in live if node.op == "get_attr"}


def _foldable(module: fx.GraphModule) -> list[fx.Node]:
    """The last nodes of what can be computed beforehand, in the graph's order."""
    constant = _constant(module.graph)
    needed: set[fx.Node] = set()  # what the rest of the graph reads
    found: list[fx.Node] = []
    for node in reversed(module.graph.nodes):
        if node not in constant:
            needed.update(node.all_input_nodes)
        elif node in needed and node.op == "call_function":
            if _is_worth_it(module, node):
                found.append(node)
            else:
                needed.update(node.all_input_nodes)
    return found[::-1]


def _constant(graph: fx.Graph) -> set[fx.Node]:
    """Parameters and buffers that nothing writes to, and what is computed from them alone."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        kept = node.op == "get_attr" and not any(_writes(user) for user in node.users)
        inputs = node.all_input_nodes if node.op == "call_function" else []
        if kept or (inputs and constant.issuperset(inputs) and not _varies(node)):
            constant.add(node)
    return constant


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _varies(node: fx.Node) -> bool:
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return random or _writes(node)


def _is_worth_it(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the value is one tensor, and one with no more elements than its sources have.

    Where a layer is spared, it is enough that the last step does not spread the values out.
    """
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return False
    before = sum(get_tensor(module, source).numel() for source in _sources(node))
    if any(step.target in CONV | TRANSPOSED | LINEAR for step in _before(node)):
        inputs = [source.meta.get("val") for source in node.all_input_nodes]
        before = max([before, *(v.numel() for v in inputs if isinstance(v, torch.Tensor))])
    return int(value.numel()) <= before


def _sources(node: fx.Node) -> list[fx.Node]:
    """The parameters and buffers that a constant node is computed from."""
    return [before for before in _before(node) if before.op == "get_attr"]


def _value(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    values: dict[fx.Node, Any] = {}
    for before in _before(node):
        if before.op == "get_attr":
            values[before] = get_tensor(module, before)
        else:
            args, kwargs = fx.node.map_arg((before.args, before.kwargs), values.__getitem__)
            values[before] = before.target(*args, **kwargs)  # type: ignore[operator]
    value: torch.Tensor = values[node]
    return value.detach().clone()


def _before(node: fx.Node) -> list[fx.Node]:
    """A node and all that it is computed from, each behind its inputs."""
    found: dict[fx.Node, None] = {}

    def visit(here: fx.Node) -> None:
        if here not in found:
            for source in here.all_input_nodes:
                visit(source)
            found[here] = None

    visit(node)
    return list(found)


def _replaced(module: fx.GraphModule, value: torch.Tensor, sources: list[fx.Node]) -> list[str]:
    """Names of the parameters whose place a value can take, less torch's own behind a weight's."""
    alike = [str(s.target) for s in sources if get_tensor(module, s).shape == value.shape]
    return [name for name in alike if ".parametrizations." not in f".{name}"]


def _names(module: fx.GraphModule, node: fx.Node) -> list[str]:
    """Names for a value that takes no parameter's place: its layer's weight, or the node's own."""
    layers = [user for user in node.users if user.target in CONV | TRANSPOSED | LINEAR]
    weights = [_join(module_path(user), "weight") for user in layers if user.args[1] is node]
    own = _join(module_path(node), node.name)
    while _exists(module, own):
        own += "_"
    return [*(name for name in weights if not _exists(module, name)), own]


def _join(path: str, attribute: str) -> str:
    return f"{path}.{attribute}" if path else attribute


def _exists(module: nn.Module, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _put(module: fx.GraphModule, name: str, value: torch.Tensor) -> None:
    path = name.rpartition(".")[0]
    if path and not _exists(module, path):
        module.add_submodule(path, nn.Module())
    put_tensor(module, name, value)
