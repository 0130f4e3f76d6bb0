"""Attention split into its parts, so that its two matrix products are layers like any other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from subbyte.graph.capture.passes.parts import Parts
from subbyte.graph.operators import A, get_tensor

ATTENTION = A.scaled_dot_product_attention.default
# A bias and a product in one operator → the product alone.
BIASED_PRODUCTS = {A.baddbmm.default: A.bmm.default, A.addmm.default: A.mm.default}


def split_attention(module: fx.GraphModule) -> None:
    """Replace operators that hold matrix products among others by their parts, in place.

    `scaled_dot_product_attention` becomes softmax(q · scale @ kᵀ + mask) @ v (Vaswani et al. 2017,
    eq. 1), `baddbmm` and `addmm` a product, its factor and an addition. The parts belong to the
    same module of the user's model. Attention with dropout, and causal attention whose lengths are
    not known at capture, stay as they are.
    """
    changed = False
    for node in list(module.graph.nodes):
        parts = Parts(module, node)
        if node.target is ATTENTION:
            result = _attention(parts, **_arguments(node))
        elif node.target in BIASED_PRODUCTS:
            result = _biased_product(parts, **_arguments(node))
        else:
            continue
        if result is not None:
            node.replace_all_uses_with(result)
            module.graph.erase_node(node)
            changed = True
    for node in module.graph.nodes:
        # A view relies on the strides of what the operator gave, which its parts do not give.
        if changed and node.target is A.view.default:
            node.target = A.reshape.default
    module.graph.lint()
    module.recompile()


def _arguments(node: fx.Node) -> dict[str, Any]:
    """An operator's arguments by their names, with what was left out."""
    schema = node.target._schema  # type: ignore[union-attr]
    names = [argument.name for argument in schema.arguments]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _attention(
    parts: Parts,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> fx.Node | None:
    lengths = query.meta["val"].shape[-2], key.meta["val"].shape[-2]
    if dropout_p > 0 or (is_causal and not all(isinstance(n, int) for n in lengths)):
        return None
    if enable_gqa:
        key, value = _for_each_query(parts, query, key), _for_each_query(parts, query, value)
    factor = 1 / math.sqrt(query.meta["val"].shape[-1]) if scale is None else scale
    # On the query, which is the smaller operand, and in a file can be part of its scale.
    scaled = query if factor == 1 else parts.call(A.mul.Tensor, query, factor)
    scores = parts.call(A.matmul.default, scaled, parts.call(A.transpose.int, key, -2, -1))
    softmax = A.softmax.int
    if is_causal:
        seen = torch.ones(lengths, dtype=torch.bool, device=scores.meta["val"].device).tril()
        scores = parts.call(A.add.Tensor, scores, parts.constant("causal", _addend(seen)))
    elif attn_mask is not None:
        scores = _masked(parts, scores, attn_mask)
        if _may_hide_all(parts.module, attn_mask):
            softmax = A._safe_softmax.default  # 0, not NaN, for a query that may see nothing
    return parts.call(A.matmul.default, parts.call(softmax, scores, -1), value)


def _masked(parts: Parts, scores: fx.Node, mask: fx.Node) -> fx.Node:
    if mask.meta["val"].dtype is not torch.bool:
        return parts.call(A.add.Tensor, scores, mask)
    if mask.op == "get_attr":
        seen = get_tensor(parts.module, mask)
        return parts.call(A.add.Tensor, scores, parts.constant("mask", _addend(seen)))
    hidden = parts.call(A.logical_not.default, mask)
    return parts.call(A.masked_fill.Scalar, scores, hidden, -math.inf)


def _may_hide_all(module: fx.GraphModule, mask: fx.Node) -> bool:
    """Whether a mask may leave a query no key at all. A mask of parameters is looked at."""
    value = _value(module, mask, {})
    if value is None:
        return True
    hidden = value.logical_not() if value.dtype is torch.bool else value == -math.inf
    return bool(hidden.all(-1).any())


def _value(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """What a node computes from parameters and sizes, sizes as in the example; else `None`."""
    if node not in known:
        value = node.meta.get("val")
        if node.op == "get_attr":
            known[node] = get_tensor(module, node)
        elif isinstance(value, torch.SymInt):
            known[node] = value.node.hint
        elif node.op == "call_function":
            inputs = {n: _value(module, n, known) for n in node.all_input_nodes}
            known[node] = None
            if all(v is not None for v in inputs.values()):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), inputs.__getitem__)
                known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        else:
            known[node] = None
    return known[node]


def _for_each_query(parts: Parts, query: fx.Node, shared: fx.Node) -> fx.Node:
    """Keys or values (…, heads, n, e), each head repeated for the queries that share it."""
    shape = shared.meta["val"].shape
    times = query.meta["val"].shape[-3] // shape[-3]
    if times == 1:
        return shared
    apart = parts.call(A.unsqueeze.default, shared, -3)
    repeated = parts.call(A.expand.default, apart, [-1] * (len(shape) - 2) + [times, -1, -1])
    return parts.call(A.flatten.using_ints, repeated, -4, -3)


def _biased_product(
    parts: Parts, self: fx.Node, beta: float, alpha: float, **operands: fx.Node
) -> fx.Node:
    target: Any = parts.node.target
    product = parts.call(BIASED_PRODUCTS[target], *operands.values())
    if alpha != 1:
        product = parts.call(A.mul.Tensor, product, alpha)
    if beta == 0:  # what is added may then be anything, NaN too
        return product
    if beta != 1:
        self = parts.call(A.mul.Tensor, self, beta)
    return parts.call(A.add.Tensor, product, self)


def _addend(seen: torch.Tensor) -> torch.Tensor:
    """0 where a query sees a key, minus infinity elsewhere."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -math.inf)
