"""Products with a constant matrix, made linear layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from subbyte.models.onnx.network import Network, Node


def with_linears(network: Network) -> Network:
    """A network whose Gemm and MatMul with a constant matrix are linear layers as PyTorch's.

    A vector that is added to such a product, and to nothing else, is the layer's bias. The weight
    keeps its name in the file.
    """
    readers = network.readers()
    constants = dict(network.constants)
    readers_of = {name: node for node in network.nodes for name in node.inputs}
    replaced: dict[str, Node] = {}
    for node in network.nodes:
        layer = _layer(node, constants)
        if layer is None:
            continue
        after = readers_of.get(node.outputs[0])
        bias = _bias(node, after, constants) if readers[node.outputs[0]] == 1 else ""
        if after is not None and bias and len(layer.inputs) == 2:
            layer = replace(layer, inputs=(*layer.inputs, bias), outputs=after.outputs)
            replaced[after.outputs[0]] = layer
        else:
            replaced[node.outputs[0]] = layer
    return network.joined(replaced, constants)


def _layer(node: Node, constants: dict[str, np.ndarray]) -> Node | None:
    """The linear layer that a node is; its weight is put among the constants."""
    if node.operator not in ("Gemm", "MatMul") or node.inputs[0] in constants:
        return None
    weight = constants.get(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or node.get("transA", 0):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if bias and bias not in constants:
        return None
    name = node.inputs[1]
    if not node.get("transB", 0):
        weight, name = weight.T, f"{name}:transposed"
    if node.get("alpha", 1.0) != 1:
        weight, name = weight * np.float32(node.get("alpha")), f"{name}:{node.name}"
    constants[name] = np.ascontiguousarray(weight)
    inputs: tuple[str, ...] = (node.inputs[0], name)
    if bias:
        values = constants[bias] * np.float32(node.get("beta", 1.0))
        if node.get("beta", 1.0) != 1 or values.shape != (len(weight),):
            if values.size not in (1, len(weight)):
                return None
            bias = f"{bias}:{node.name}"
            constants[bias] = np.ascontiguousarray(np.broadcast_to(values.reshape(-1), len(weight)))
        inputs = (*inputs, bias)
    return replace(node, operator="Linear", inputs=inputs, attributes={})


def _bias(node: Node, after: Node | None, constants: dict[str, np.ndarray]) -> str:
    """The vector that the one reader of a product adds to it; empty if it does something else."""
    if after is None or after.operator != "Add" or node.operator != "MatMul":
        return ""
    others = [name for name in after.inputs if name != node.outputs[0]]
    columns = constants[node.inputs[1]].shape[1]
    fits = len(others) == 1 and others[0] in constants
    return others[0] if fits and constants[others[0]].shape == (columns,) else ""
