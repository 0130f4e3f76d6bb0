"""Maximum pooling with padding that never wins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, constant, integers, number, only_reader


def merge_padding(graph: ir.Graph) -> None:
    """Let maximum pooling pad by itself what a Pad with minus infinity has padded.

    PyTorch's own padding is as wide at the end as at the beginning, ONNX's need not be. Without the
    Pad, integers in front of it are those behind the pooling. Where it crops, the cropping stays.
    """
    for node in list(graph):
        pool = only_reader(node.outputs[0]) if _pads_with_least(node) else None
        if pool is None or pool.op_type != "MaxPool" or attribute(pool, "ceil_mode", 0):
            continue
        lengths, kernel = integers(node.inputs[1]), list(attribute(pool, "kernel_shape"))
        if lengths is None or len(lengths) != 2 * (len(kernel) + 2):
            continue
        half = len(lengths) // 2
        images, own = lengths[:2] + lengths[half : half + 2], lengths[2:half] + lengths[half + 2 :]
        before = attribute(pool, "pads", None) or [0] * len(own)
        pads = [max(a, 0) + b for a, b in zip(own, before, strict=True)]
        fit = all(0 <= pad < side for pad, side in zip(pads, kernel * 2, strict=True))
        if any(images) or not fit or attribute(pool, "auto_pad", "NOTSET") != "NOTSET":
            continue
        pool.attributes["pads"] = ir.AttrInt64s("pads", pads)
        if min(own) < 0:
            _crop_alone(graph, node, lengths)
            continue
        pool.replace_input_with(0, node.inputs[0])
        graph.remove(node, safe=True)


def _crop_alone(graph: ir.Graph, node: ir.Node, lengths: Sequence[int]) -> None:
    """Let a Pad take away what it takes away, and add nothing: then its value does not matter.

    OpenVINO cannot load a Pad with minus infinity behind integers.

    Args:
        graph: The graph.
        node: The Pad.
        lengths: What it pads by.
    """
    name = f"{node.name or node.outputs[0].name}_crop"
    crops = constant(graph, name, [min(length, 0) for length in lengths], np.int64)
    node.replace_input_with(1, crops)
    node.replace_input_with(2, None)


def _pads_with_least(node: ir.Node) -> bool:
    """Whether a node pads along all dimensions with minus infinity."""
    if node.domain or node.op_type != "Pad" or len([x for x in node.inputs if x]) != 3:
        return False
    constant = attribute(node, "mode", "constant") == "constant"
    return constant and number(node.inputs[2]) == -math.inf
