"""Attention as one operator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Node
from subbyte.models.onnx.operators.table import Operator, Table


def _attention(
    node: Node, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *more: Tensor
) -> Tensor:
    """softmax(q · scale @ kᵀ + mask) @ v, heads apart, or [batch, length, heads · width]."""
    if any(x is not None for x in more) or any(node.outputs[1:]) or node.get("softcap", 0.0):
        raise SubbyteError(
            f"the node {node} keeps keys and values or caps its scores: export the model without"
        )
    if any(node.get(f"{side}_window_size", -1) != -1 for side in ("left", "right")):
        raise SubbyteError(f"the node {node} has a window: export the model with a mask instead")
    whole = query.dim() == 3
    if whole:
        query = _heads(query, node.get("q_num_heads"))
        key, value = (_heads(x, node.get("kv_num_heads")) for x in (key, value))
    times = int(query.shape[1]) // int(key.shape[1])
    if times > 1:
        key, value = (x.repeat_interleave(times, 1) for x in (key, value))
    scale = node.get("scale", 1 / math.sqrt(query.shape[-1]))
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if node.get("is_causal", 0):
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    if mask is not None:
        boolean = mask.dtype is torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if boolean else scores + mask
    result = torch.matmul(torch.softmax(scores, -1), value)
    return torch.flatten(result.transpose(1, 2), 2) if whole else result


def _heads(x: Tensor, count: int) -> Tensor:
    return x.reshape([x.shape[0], x.shape[1], count, -1]).transpose(1, 2)


OPERATORS: Table = {"Attention": Operator(_attention)}
