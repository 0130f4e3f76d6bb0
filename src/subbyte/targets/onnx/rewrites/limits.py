"""A ReLU or clip in front of a quantization, as limits of its integers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, constant, number, prune
from subbyte.targets.onnx.qdq import nearest, qdq_nodes, set_qdq, settings


@dataclass(frozen=True)
class _Limits:
    """What a node clips to.

    Attributes:
        source: The value that is clipped.
        lowest: The lower limit.
        highest: The upper limit: one number, or one for each channel.
    """

    source: ir.Value
    lowest: float
    highest: np.ndarray


def merge_limits(model: ir.Model) -> None:
    """Let each Q/DQ node read past a ReLU, ReLU6 or other clip, which it does itself.

    Rounding keeps order, so that clipping integers is clipping values and rounding them. Where
    channels have limits of their own, as those of equalized layers, a Min of integers is left: a
    Min on the floats would cost ONNX Runtime its integer convolution.
    """
    for node in qdq_nodes(model):
        found = _limits(node.inputs[0])
        if found is None:
            continue
        qdq = settings(node)
        tops = np.vectorize(lambda value, qdq=qdq: nearest(value, qdq))(found.highest)
        set_qdq(node, replace(qdq, low=nearest(found.lowest, qdq), high=int(tops.max())))
        node.replace_input_with(0, found.source)
        if tops.min() != tops.max():
            _limit_channels(model.graph, node, tops)
    prune(model)


def _limit_channels(graph: ir.Graph, node: ir.Node, tops: np.ndarray) -> None:
    source = node.inputs[0]
    assert source is not None
    assert source.shape is not None
    shape = [1] * (len(source.shape) - tops.ndim) + list(tops.shape)
    highest = constant(graph, f"{node.outputs[0].name}_highest", tops.reshape(shape), np.uint8)
    node.resize_inputs(2)
    node.replace_input_with(1, highest)


def _limits(value: ir.Value | None) -> _Limits | None:
    node = None if value is None else value.producer()
    if node is None or node.domain or node.inputs[0] is None:
        return None
    if node.op_type == "Relu":
        return _Limits(node.inputs[0], 0.0, np.array(math.inf))
    if node.op_type == "Clip":
        ends = [*node.inputs[1:], None, None][:2]
        low, high = (number(end) for end in ends)
        if (low is None and ends[0] is not None) or (high is None and ends[1] is not None):
            return None
        top = math.inf if high is None else high
        return _Limits(node.inputs[0], -math.inf if low is None else low, np.array(top))
    return _limits_of_channels(node)


def _limits_of_channels(node: ir.Node) -> _Limits | None:
    """Of Min(Max(x, lowest), highest), where all channels have the same lowest value."""
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node.op_type != "Min" or inner is None or inner.op_type != "Max":
        return None
    if len(node.inputs) != 2 or len(inner.inputs) != 2:
        return None
    source, lowest, highest = inner.inputs[0], number(inner.inputs[1]), array(node.inputs[1])
    if source is None or source.shape is None or lowest is None or highest is None:
        return None
    if highest.ndim > len(source.shape):
        return None
    return _Limits(source, lowest, highest.astype(np.float64))
