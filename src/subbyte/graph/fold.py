"""Batch norm that follows a convolution or linear layer, folded into its weight and bias."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from subbyte.graph.operators import CONV, LINEAR, A, get_tensor, put_tensor, rank_of

BATCH_NORM = {A._native_batch_norm_legit_no_training.default, A.batch_norm.default}


def fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold each batch norm into the layer before it, in place: w' = w·k, b' = (b − mean)·k + β.

    k = γ / √(var + ε) (Jacob et al. 2018, eq. 14). A norm is left where it is, if its input is not
    a layer's output, has other readers, or the layer's weight is used elsewhere as well.
    """
    for norm in [n for n in module.graph.nodes if n.target in BATCH_NORM]:
        layer, output = norm.args[0], _output(norm)
        if output is not None and _can_fold(layer) and _is_fixed(norm):
            _fold(module, layer, norm)
            output.replace_all_uses_with(layer)
            module.graph.erase_node(output)
            if output is not norm:
                module.graph.erase_node(norm)
    module.graph.eliminate_dead_code()
    module.recompile()


def _output(norm: fx.Node) -> fx.Node | None:
    """The normalized tensor: the node itself, or the first item of a node that returns a tuple."""
    if norm.target is A.batch_norm.default:
        return norm
    users = list(norm.users)
    if len(users) == 1 and users[0].target is operator.getitem and users[0].args[1] == 0:
        return users[0]
    return None


def _can_fold(layer: Any) -> bool:
    if not isinstance(layer, fx.Node) or layer.target not in CONV | LINEAR:
        return False
    if layer.target in LINEAR and rank_of(layer) != 2:
        return False  # the norm is not over the layer's outputs
    constants = [a for a in layer.args[1:3] if a is not None]
    return len(layer.users) == 1 and all(
        isinstance(a, fx.Node) and a.op == "get_attr" and len(a.users) == 1 for a in constants
    )


def _is_fixed(norm: fx.Node) -> bool:
    """Whether scale, shift, mean and variance are parameters, and not computed."""
    return all(a is None or (isinstance(a, fx.Node) and a.op == "get_attr") for a in norm.args[1:5])


def _fold(module: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> None:
    weight_node, bias_node = [*layer.args, None][1:3]
    gamma, beta, mean, var = (
        get_tensor(module, a) if isinstance(a, fx.Node) else None for a in norm.args[1:5]
    )
    assert isinstance(weight_node, fx.Node)
    assert mean is not None
    assert var is not None
    epsilon = norm.args[7 if norm.target is A.batch_norm.default else 6]
    assert isinstance(epsilon, float)
    factor = (var.double() + epsilon).rsqrt()
    factor = factor if gamma is None else factor * gamma.double()
    weight = get_tensor(module, weight_node)
    shape = [-1] + [1] * (weight.dim() - 1)
    bias = torch.zeros_like(mean)
    if isinstance(bias_node, fx.Node):
        bias = get_tensor(module, bias_node)
    folded = (bias.double() - mean.double()) * factor
    folded = folded if beta is None else folded + beta.double()
    put_tensor(module, str(weight_node.target), (weight * factor.reshape(shape)).to(weight.dtype))
    name = _bias_name(module, weight_node, bias_node)
    put_tensor(module, name, folded.to(weight.dtype))
    with module.graph.inserting_before(layer):
        new_bias = module.graph.get_attr(name)
    layer.args = (layer.args[0], weight_node, new_bias, *layer.args[3:])


def _bias_name(module: fx.GraphModule, weight: fx.Node, bias: Any) -> str:
    """The layer's own bias, where it has one or a place for one; else a name of its own."""
    if isinstance(bias, fx.Node):
        return str(bias.target)
    path, _, attribute = str(weight.target).rpartition(".")
    layer = module.get_submodule(path) if path else module
    if attribute == "weight" and getattr(layer, "bias", None) is None:
        return f"{path}.bias" if path else "bias"
    return f"{weight.target}_bias"
