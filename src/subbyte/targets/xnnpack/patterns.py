"""Which quantized patterns XNNPACK runs with int8 kernels, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import fx

from subbyte.graph.operators import (
    ADD,
    CONV,
    LINEAR,
    MUL,
    TRANSPOSED,
    A,
    get_tensor,
    groups_of,
)

Q: Any = torch.ops.quantized_decomposed
GEMM = CONV | TRANSPOSED | LINEAR
JOINED = ADD | MUL
FUSED = (A.relu.default, A.hardtanh.default)  # what a kernel computes along with a layer
QUANTIZE = Q.quantize_per_tensor.default
DEQUANTIZE = Q.dequantize_per_tensor.default
OF_WEIGHTS = (DEQUANTIZE, Q.dequantize_per_channel.default)
# XNNPACK's limits of scales: of sums over that of the result, of an operand over it, of a product.
SUM_RATIO = 256.0
ADDED = (2.0**-10, 2.0**8)
MULTIPLIED = (2.0**-16, 2.0**8)
AVERAGED = (2.0**-8, 2.0**8)


def is_dequantized(node: Any) -> bool:
    """Whether a node gives an activation's integers as floats."""
    return isinstance(node, fx.Node) and node.target is DEQUANTIZE


def fold_unquantized(module: fx.GraphModule) -> list[str]:
    """Make floats of the weights of layers that have no int8 kernel; return their nodes' names.

    Otherwise XNNPACK would leave these layers to others altogether.
    """
    found = []
    for node in list(module.graph.nodes):
        weight = node.args[1] if node.target in GEMM else None
        if not isinstance(weight, fx.Node) or weight.target not in OF_WEIGHTS:
            continue
        if _has_kernel(module, node, weight):
            continue
        args = [get_tensor(module, x) if isinstance(x, fx.Node) else x for x in weight.args]
        name = f"{cast('fx.Node', weight.args[0]).target}_values"
        while hasattr(module, name):
            name += "_"
        module.register_buffer(name, cast("Any", weight.target)(*args))
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta = dict(weight.meta)
        node.replace_input_with(weight, constant)
        module.graph.erase_node(weight)
        found.append(node.name)
    return found


def keep_ratios(module: fx.GraphModule) -> list[str]:
    """Keep in float what would have scales too unlike for XNNPACK; return the nodes' names.

    Limits that limit nothing stand between the operator and its quantization, which XNNPACK then
    takes for two things.
    """
    found = []
    for node in list(module.graph.nodes):
        quantized = _quantized(node)
        inputs = node.all_input_nodes
        if quantized is None or not inputs or not all(map(is_dequantized, inputs)):
            continue
        scale, scales = float(cast("float", quantized.args[1])), [_scale(x) for x in inputs]
        if not _within(node, scale, scales * (2 if len(inputs) == 1 else 1)):
            last = cast("fx.Node", quantized.args[0])
            span = 1e30
            with module.graph.inserting_before(quantized):
                new = module.graph.call_function(A.hardtanh.default, (last, -span, span))
            new.meta = dict(last.meta)
            quantized.replace_input_with(last, new)
            found.append(node.name)
    return found


def _within(node: fx.Node, scale: float, scales: list[float]) -> bool:
    """Whether the scales of operands and of a result fit together."""
    if node.target in ADD:
        return all(ADDED[0] <= x / scale < ADDED[1] for x in scales)
    if node.target in MUL:
        return MULTIPLIED[0] <= scales[0] * scales[1] / scale < MULTIPLIED[1]
    if node.target is A.mean.dim:
        return AVERAGED[0] <= scales[0] / scale < AVERAGED[1]
    return True


def _has_kernel(module: fx.GraphModule, node: fx.Node, weight: fx.Node) -> bool:
    """Whether an int8 kernel runs a layer whose weight is quantized."""
    quantized, source = _quantized(node), node.args[0]
    if quantized is None or not is_dequantized(source):
        return False
    per_channel = weight.target is not DEQUANTIZE
    turned = node.target in TRANSPOSED and per_channel
    if turned and (groups_of(node) > 1 or weight.args[3] != 1):
        return False
    scales = get_tensor(module, cast("fx.Node", weight.args[1])) if per_channel else None
    largest = float(weight.args[1]) if scales is None else float(scales.max())  # type: ignore[arg-type]
    result = float(cast("float", quantized.args[1]))
    return largest * _scale(cast("fx.Node", source)) / result < SUM_RATIO


def _quantized(node: fx.Node) -> fx.Node | None:
    """The one quantization of what a node gives, past limits perhaps; `None`: there is none."""
    for reader in _only_reader(node):
        if reader.target is QUANTIZE:
            return reader
        if reader.target in FUSED:
            for last in _only_reader(reader):
                return last if last.target is QUANTIZE else None
    return None


def _only_reader(node: fx.Node) -> Iterator[fx.Node]:
    if len(node.users) == 1:
        yield next(iter(node.users))


def _scale(node: fx.Node) -> float:
    return float(cast("float", node.args[1]))
