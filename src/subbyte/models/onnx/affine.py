"""Factors and addends of channels behind a convolution, made part of its weight and bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from subbyte.models.onnx.network import Network, Node

LAYERS = ("Conv", "ConvTranspose")


def with_biases(network: Network) -> Network:
    """A network in which a convolution has its bias itself, and no factor behind it.

    Exporters other than PyTorch's write a bias as an addition, and batch norm as a product and an
    addition.
    """
    readers = network.readers()
    constants = dict(network.constants)
    uses = {name: node for node in network.nodes for name in node.inputs}
    layers: dict[str, Node] = {}  # by the output that they have
    for node in network.nodes:
        if node.operator not in LAYERS or node.inputs[1] not in constants:
            continue
        layer = node
        while readers[layer.outputs[0]] == 1 and layer.outputs[0] in uses:
            after = uses[layer.outputs[0]]
            joined = _joined(layer, after, constants, readers[layer.inputs[1]])
            if joined is None:
                break
            layer = joined
        layers[layer.outputs[0]] = layer
    return network.joined(layers, constants)


def _joined(layer: Node, after: Node, constants: dict[str, np.ndarray], shared: int) -> Node | None:
    """A convolution with what follows it, if that is arithmetic with a constant of channels."""
    if after.operator not in ("Add", "Sub", "Mul", "Div") or len(after.inputs) != 2:
        return None
    first = after.inputs[0] == layer.outputs[0]
    other = after.inputs[1 if first else 0]
    if other not in constants or (not first and after.operator in ("Sub", "Div")):
        return None
    weight = constants[layer.inputs[1]]
    grouped = layer.operator == "ConvTranspose"
    channels = weight.shape[1] * layer.get("group", 1) if grouped else weight.shape[0]
    values = _of_channels(constants[other], channels, weight.ndim)
    if values is None:
        return None
    bias = layer.inputs[2] if len(layer.inputs) > 2 else ""
    if bias and bias not in constants:
        return None
    old = constants[bias] if bias else np.zeros(channels, np.float32)
    name = f"{bias or other}:{after.name}"
    if after.operator in ("Add", "Sub"):
        constants[name] = (old + values if after.operator == "Add" else old - values).astype(
            np.float32
        )
        return replace(layer, inputs=(*layer.inputs[:2], name), outputs=after.outputs)
    if shared > 1 or (grouped and layer.get("group", 1) > 1):
        return None
    factor = values if after.operator == "Mul" else 1 / values
    spread = [1] * weight.ndim
    spread[1 if grouped else 0] = -1
    constants[layer.inputs[1]] = (weight * factor.reshape(spread)).astype(np.float32)
    inputs = layer.inputs[:2]
    if bias:
        constants[name] = (old * factor).astype(np.float32)
        inputs = (*inputs, name)
    return replace(layer, inputs=inputs, outputs=after.outputs)


def _of_channels(value: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """A constant as one value a channel, if that is what it is beside images of this rank."""
    if value.dtype != np.float32 or value.ndim > rank:
        return None
    if value.size == 1:
        return np.broadcast_to(value.reshape(-1), channels)
    shape = [1] * (rank - value.ndim) + list(value.shape)
    return value.reshape(-1) if shape == [1, channels, *[1] * (rank - 2)] else None
