"""Weights that several layers share, whose results are multiplied by constants."""

from __future__ import annotations

from itertools import count

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, LINEAR
from subbyte.targets.onnx.graph import array, constant, only_reader, put, shape_of

LAYERS = {("", "Conv"), ("", "ConvTranspose"), (DOMAIN, LINEAR)}
FACTORS = {"BatchNormalization", "Div", "Mul"}


def copy_shared_weights(model: ir.Model) -> None:
    """Give each layer a weight of its own, if it shares one and its result is multiplied.

    OpenVINO takes the factor of a float result (one a feature map, a batch norm that is not folded)
    into the weight. From a weight with other readers no integers are left then, and all layers that
    share it run in float.
    """
    for node in list(model.graph):
        weight = node.inputs[1] if (node.domain, node.op_type) in LAYERS else None
        made = None if weight is None else weight.producer()
        if weight is None or made is None or made.op_type != "DequantizeLinear":
            continue
        if len(list(weight.uses())) > 1 and _is_multiplied(node):
            node.replace_input_with(1, _copy(model.graph, node, made))


def _is_multiplied(layer: ir.Node) -> bool:
    """Whether the one thing that reads a layer's result multiplies it by a constant."""
    reader = only_reader(layer.outputs[0])
    if reader is None or reader.domain or reader.op_type not in FACTORS:
        return False
    return all(value is layer.outputs[0] or array(value) is not None for value in reader.inputs)


def _copy(graph: ir.Graph, layer: ir.Node, made: ir.Node) -> ir.Value:
    """The same weight again, from constants that nothing else reads."""
    inputs = []
    for value in made.inputs:
        content = array(value)
        if value is None or content is None:
            inputs.append(value)
            continue
        names = (f"{value.name}_{i}" for i in count(2))
        name = next(name for name in names if name not in graph.initializers)
        inputs.append(constant(graph, name, np.array(content)))
    given = {name: found.value for name, found in made.attributes.items()}
    return put(layer, "DequantizeLinear", inputs, given, shape=shape_of(made.outputs[0]))
