"""Weights that several layers share, copied where each layer's batch norm can then be folded."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

from torch import fx, nn

from subbyte.graph.capture.passes.batch_norm import layers_with_norms
from subbyte.graph.operators import get_tensor, put_tensor

POSITIONS = 16  # a layer multiplies each value of its weight at least so often for an image


def copy_shared_weights(module: fx.GraphModule) -> None:
    """Give each layer that shares its weight, and has a batch norm of its own, a copy, in place.

    So have the heads of detectors whose feature maps share convolutions. A copy is made where the
    layer has many positions, so that reading it takes little beside the products. One
    layer keeps the weight if nothing else reads it; a copy of `head.conv` is called `head.conv_2`.
    """
    sharing: dict[fx.Node, list[fx.Node]] = {}
    for layer in layers_with_norms(module.graph):
        shared = [a for a in layer.args[1:3] if isinstance(a, fx.Node) and len(a.users) > 1]
        if shared and _positions(layer) >= POSITIONS:
            weight: Any = layer.args[1]
            sharing.setdefault(weight, []).append(layer)
    for layers in sharing.values():
        alone = all(
            set(a.users) <= set(layers) for a in layers[0].args[1:3] if isinstance(a, fx.Node)
        )
        for layer in layers[1:] if alone else layers:
            _copy(module, layer)
    module.graph.lint()
    module.recompile()


def _positions(layer: fx.Node) -> int:
    """How many positions of an image the layer computes: those of the example."""
    shape = layer.meta["val"].shape
    weight: Any = layer.args[1]
    rank = weight.meta["val"].dim()
    lengths = shape[1:-1] if rank == 2 else shape[-(rank - 2) :]
    return math.prod(n if isinstance(n, int) else n.node.hint or 1 for n in lengths)


def _copy(module: fx.GraphModule, layer: fx.Node) -> None:
    """Let a layer read copies of its weight and bias."""
    given = [a for a in layer.args[1:3] if isinstance(a, fx.Node)]
    names = _free_names(module, [str(a.target) for a in given])
    for node, name in zip(given, names, strict=True):
        path = name.rpartition(".")[0]
        if path and path not in dict(module.named_modules()):
            module.add_submodule(path, nn.Module())
        put_tensor(module, name, get_tensor(module, node).clone())
        with module.graph.inserting_before(layer):
            new = module.graph.get_attr(name)
        new.meta = dict(node.meta)
        layer.args = tuple(new if a is node else a for a in layer.args)


def _free_names(module: fx.GraphModule, targets: list[str]) -> list[str]:
    """Names for copies of a layer's parameters: those of the module, with a number behind it."""
    taken = {name for name, _ in module.named_modules()}
    taken |= {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    parts = [target.rpartition(".") for target in targets]
    tried = (
        [f"{path}_{i}.{own}" if path else f"{own}_{i}" for path, _, own in parts] for i in count(2)
    )
    return next(
        names for names in tried if taken.isdisjoint(n.rpartition(".")[0] or n for n in names)
    )
