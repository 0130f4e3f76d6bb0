"""Batch norm that follows a convolution or linear layer, folded into its weight and bias."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from subbyte.graph.operators import (
    CAT,
    CONV,
    LINEAR,
    TRANSPOSED,
    A,
    get_tensor,
    groups_of,
    put_tensor,
    rank_of,
)

BATCH_NORM = {A._native_batch_norm_legit_no_training.default, A.batch_norm.default}
RESHAPE = {A.view.default, A.reshape.default, A.flatten.using_ints}


@dataclass(frozen=True)
class _Affine:
    """What a batch norm does to each channel: x·factor + shift, in float64."""

    factor: Tensor
    shift: Tensor


def fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold each batch norm into the layer before it, in place: w' = w·k, b' = (b − mean)·k + β.

    k = γ / √(var + ε) (Jacob et al. 2018, eq. 14). Between the two there may be a reshape that
    keeps the channels last, or a concatenation of several layers' channels. A norm is left where it
    is, if what it reads comes from elsewhere, has other readers, or a weight is used elsewhere too.
    """
    for norm in _fixed_norms(module.graph):
        output, layers = _output(norm), _layers_before(norm)
        if output is None or not layers or not all(_is_alone(layer) for layer in layers):
            continue
        affine, start = _affine(module, norm), 0
        for layer in layers:
            weight: Any = layer.args[1]
            end = start + _outputs(layer, get_tensor(module, weight))
            _fold(module, layer, _Affine(affine.factor[start:end], affine.shift[start:end]))
            start = end
        source: Any = norm.args[0]
        output.replace_all_uses_with(source)
        module.graph.erase_node(output)
        if output is not norm:
            module.graph.erase_node(norm)
    module.graph.eliminate_dead_code()
    module.recompile()


def layers_with_norms(graph: fx.Graph) -> list[fx.Node]:
    """The layers that a batch norm could be folded into, if no other node read their parameters."""
    norms = [norm for norm in _fixed_norms(graph) if _output(norm) is not None]
    return [layer for norm in norms for layer in _layers_before(norm)]


def _fixed_norms(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target in BATCH_NORM and _is_fixed(node)]


def _output(norm: fx.Node) -> fx.Node | None:
    """The normalized tensor: the node itself, or the first item of a node that returns a tuple."""
    if norm.target is A.batch_norm.default:
        return norm
    users = list(norm.users)
    if len(users) == 1 and users[0].target is operator.getitem and users[0].args[1] == 0:
        return users[0]
    return None


def _layers_before(norm: fx.Node) -> list[fx.Node]:
    """The layers whose outputs are the norm's channels, in their order; empty if there are others.

    A norm's channels are the second dimension: a convolution's outputs, and of a matrix a linear
    layer's, which are its last dimension.
    """
    source: Any = norm.args[0]
    matrix = rank_of(source) == 2
    while matrix and _keeps_last(source):
        source = source.args[0]
    parts = list(source.args[0]) if _concatenates_channels(source) else [source]
    kinds = LINEAR if matrix else CONV | TRANSPOSED
    foldable = all(_can_fold(part, kinds) for part in parts) and len(set(parts)) == len(parts)
    return parts if foldable else []


def _keeps_last(node: Any) -> bool:
    """Whether a node only reshapes, for its one reader, dimensions other than the last."""
    if not isinstance(node, fx.Node) or node.target not in RESHAPE or len(node.users) != 1:
        return False
    before = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    after = node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return before.dim() > 1 and str(before.shape[-1]) == str(after.shape[-1])


def _concatenates_channels(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.target not in CAT or len(node.users) != 1:
        return False
    return list(node.args[1:]) == [1]


def _can_fold(layer: Any, kinds: Collection[Any]) -> bool:
    """Whether a node is a layer with one reader, whose weight and bias are parameters."""
    if not isinstance(layer, fx.Node) or layer.target not in kinds:
        return False
    constants = [a for a in layer.args[1:3] if a is not None]
    return len(layer.users) == 1 and all(
        isinstance(a, fx.Node) and a.op == "get_attr" for a in constants
    )


def _is_alone(layer: fx.Node) -> bool:
    """Whether no other node reads a layer's weight or bias."""
    return all(len(a.users) == 1 for a in layer.args[1:3] if isinstance(a, fx.Node))


def _is_fixed(norm: fx.Node) -> bool:
    """Whether scale, shift, mean and variance are parameters, and not computed."""
    if norm.target is A.batch_norm.default and norm.args[5]:
        return False  # by the statistics of the batch itself
    return all(a is None or (isinstance(a, fx.Node) and a.op == "get_attr") for a in norm.args[1:5])


def _affine(module: fx.GraphModule, norm: fx.Node) -> _Affine:
    gamma, beta, mean, var = (
        get_tensor(module, a).double() if isinstance(a, fx.Node) else None for a in norm.args[1:5]
    )
    assert mean is not None
    assert var is not None
    epsilon = norm.args[7 if norm.target is A.batch_norm.default else 6]
    assert isinstance(epsilon, float)
    factor = (var + epsilon).rsqrt()
    factor = factor if gamma is None else factor * gamma
    return _Affine(factor, -mean * factor if beta is None else beta - mean * factor)


def _fold(module: fx.GraphModule, layer: fx.Node, affine: _Affine) -> None:
    weight_node, bias_node = [*layer.args, None][1:3]
    assert isinstance(weight_node, fx.Node)
    weight = get_tensor(module, weight_node)
    factor = _along_outputs(layer, affine.factor, weight)
    shift = affine.shift
    if isinstance(bias_node, fx.Node):
        shift = get_tensor(module, bias_node).double() * affine.factor + shift
    put_tensor(module, str(weight_node.target), (weight * factor).to(weight.dtype))
    name = _bias_name(module, weight_node, bias_node)
    put_tensor(module, name, shift.to(weight.dtype))
    with module.graph.inserting_before(layer):
        new_bias = module.graph.get_attr(name)
    layer.args = (layer.args[0], weight_node, new_bias, *layer.args[3:])


def _outputs(layer: fx.Node, weight: Tensor) -> int:
    """How many channels a layer gives."""
    return weight.shape[1] * groups_of(layer) if layer.target in TRANSPOSED else len(weight)


def _along_outputs(layer: fx.Node, factor: Tensor, weight: Tensor) -> Tensor:
    """A number for each output in the shape of the weight, or one that spreads to it."""
    rest = [1] * (weight.dim() - 2)
    if layer.target not in TRANSPOSED:
        return factor.reshape(-1, 1, *rest)
    groups = groups_of(layer)
    each = factor.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
    return each.reshape(*weight.shape[:2], *rest)


def _bias_name(module: fx.GraphModule, weight: fx.Node, bias: Any) -> str:
    """The layer's own bias, where it has one or a place for one; else a name of its own."""
    if isinstance(bias, fx.Node):
        return str(bias.target)
    path, _, attribute = str(weight.target).rpartition(".")
    layer = module.get_submodule(path) if path else module
    if attribute == "weight" and getattr(layer, "bias", None) is None:
        return f"{path}.bias" if path else "bias"
    return f"{weight.target}_bias"
