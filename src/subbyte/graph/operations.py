"""The operations of a graph whose results can be quantized, by the names of the user's modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from subbyte.graph.float_model import FloatModel, qualified
from subbyte.graph.layers import FoundLayer, carries_data
from subbyte.graph.operators import (
    ADD,
    CAT,
    MUL,
    POOL,
    A,
    clamp_of,
    is_global_pool,
    is_number,
    module_path,
    tensor_inputs,
    tensor_readers,
)

# What operations are called that no module of their own computes.
WORDS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys(ADD, ("add",)),
    **dict.fromkeys(MUL, ("mult", "mul")),
    **dict.fromkeys(CAT, ("concat", "cat")),
    **dict.fromkeys(POOL, ("avgpool",)),
    A.max_pool2d.default: ("maxpool",),
    A.max_pool1d.default: ("maxpool",),
}
# Functions behind which only so much of a value counts.
SATURATING = {A.sigmoid.default: 6.0, A.tanh.default: 4.0}
NOT_WRAPPED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)


@dataclass(frozen=True)
class Operation:
    """A layer, a sum, product or concatenation of activations, or a module without submodules.

    Attributes:
        names: Its qualified name, and by what else patterns find it: another word for what it
            computes, the number of the call behind it, its name within the region.
        node: The node that gives its result.
        inputs: The activations that it reads.
        layer: The layer that it is; `None`: it has no weight.
        relu: The ReLU that alone reads its result and is computed along with it.
        limits: Beyond which values of its result make no difference behind what reads it.
        is_relu: It is a ReLU itself.
    """

    names: tuple[str, ...]
    node: fx.Node
    inputs: tuple[fx.Node, ...]
    layer: FoundLayer | None = None
    relu: fx.Node | None = None
    limits: tuple[float, float] | None = None
    is_relu: bool = False

    @property
    def name(self) -> str:
        """Its qualified name."""
        return self.names[0]


def operations_of(float_model: FloatModel, region: str) -> list[Operation]:
    """The operations of a region, in the graph's order.

    Args:
        float_model: The model.
        region: The region's qualified name.
    """
    graph = float_model.region(region).graph
    data, leaves = carries_data(graph), _leaves(float_model.original)
    layers = {layer.node: layer for layer in float_model.layers[region]}
    calls, taken = Counter[str](), Counter[str]()
    found = []
    for node in graph.nodes:
        if node.op != "call_function" or node not in data or is_number(node):
            continue
        names = _names(node, layers.get(node), region, leaves, data)
        if not names:
            continue
        calls.update(names)
        if node.target in WORDS or _is_relu(node):
            names = [*names, *(f"{name}{calls[name]}" for name in names)]
        taken[names[0]] += 1
        first = names[0] if taken[names[0]] == 1 else f"{names[0]}_{taken[names[0]]}"
        inner = [name.removeprefix(f"{region}.") for name in names]
        every = tuple(dict.fromkeys([first, *names, *inner]))
        found.append(_operation(node, every, layers.get(node), data))
    return found


def _operation(
    node: fx.Node,
    names: tuple[str, ...],
    layer: FoundLayer | None,
    data: Collection[fx.Node],
) -> Operation:
    readers = tensor_readers(node)
    reader = readers[0] if len(readers) == 1 else None
    relu = reader if reader is not None and _is_relu(reader) else None
    limits = None if relu is None else clamp_of(relu)
    if reader is not None and reader.target in SATURATING:
        limits = (-SATURATING[reader.target], SATURATING[reader.target])
    inputs = tuple(source for source in _read(node) if source in data)
    return Operation(names, node, inputs, layer, relu, limits, _is_relu(node))


def _is_relu(node: fx.Node) -> bool:
    limits = clamp_of(node)
    return limits is not None and limits[0] == 0


def _read(node: fx.Node) -> Sequence[fx.Node]:
    """What a node computes with, each as often as it stands there."""
    first = node.args[0] if node.args else None
    if isinstance(first, list | tuple):
        return [part for part in first if isinstance(part, fx.Node)]
    if node.target in ADD | MUL:
        return [part for part in node.args[:2] if isinstance(part, fx.Node)]
    return tensor_inputs(node)


def _names(
    node: fx.Node,
    layer: FoundLayer | None,
    region: str,
    leaves: Mapping[str, nn.Module],
    data: Collection[fx.Node],
) -> list[str]:
    """By what a node is known; empty where it is no operation of its own."""
    if layer is not None:
        return [qualified(region, layer.name)]
    module = _leaf(node, region, leaves)
    path = qualified(region, module_path(node)).removesuffix(".")
    if module is not None:
        inside = all(_leaf(user, region, leaves) is module for user in node.users)
        alone = bool(node.users) and inside and module_path(node) == _path_of_users(node)
        skipped = alone or isinstance(module, NOT_WRAPPED) or not hasattr(node.meta["val"], "shape")
        return [] if skipped else [path]
    words = WORDS.get(node.target, ())
    if node.target in ADD | MUL | CAT and sum(source in data for source in _read(node)) < 2:
        words = ()
    elif _is_relu(node):
        words = ("relu",)
    elif is_global_pool(node):
        words = ("avgpool",)
    return [f"{path}.{word}" if path else word for word in words]


def _path_of_users(node: fx.Node) -> str:
    paths = {module_path(user) for user in node.users}
    return paths.pop() if len(paths) == 1 else ""


def _leaves(model: nn.Module) -> dict[str, nn.Module]:
    """The modules without submodules, by their qualified names."""
    return dict(_leaf_modules(model))


def _leaf_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if name and not any(True for _ in module.children()):
            yield name, module


def _leaf(node: fx.Node, region: str, leaves: Mapping[str, nn.Module]) -> nn.Module | None:
    path = module_path(node)
    return leaves.get(qualified(region, path)) if path else None
