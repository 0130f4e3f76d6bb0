"""Scattering to constant places, made the assignment to a part of a tensor that it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from subbyte.models.onnx.network import Network, Node


def with_patches(network: Network) -> Network:
    """A network in which `x[..., 0:2] = y` is a part put into place, for any batch size.

    PyTorch's old exporter writes the places of all values as a constant.
    """
    sizes = [given.shape[0] for given in network.inputs if given.shape and len(given.shape) > 2]
    size = next((n for n in sizes if n is not None), None)
    nodes = []
    for node in network.nodes:
        box = None
        if node.operator == "ScatterND" and node.get("reduction", "none") == "none":
            box = _box(network.constants.get(node.inputs[1]))
        if box is not None and size is not None and box[0] == (0, size):
            node = _patch(node, box)
        nodes.append(node)
    return network.with_nodes(nodes)


def _patch(node: Node, box: list[tuple[int, int]]) -> Node:
    inputs = (node.inputs[0], node.inputs[2])
    return replace(node, operator="Patch", inputs=inputs, attributes={"box": tuple(box[1:])})


def _box(indices: np.ndarray | None) -> list[tuple[int, int]] | None:
    """Start and length along each axis, if the indices are all places of such a box, in order."""
    if indices is None or indices.ndim - 1 != indices.shape[-1] or not indices.size:
        return None
    starts = indices.reshape(-1, indices.shape[-1])[0]
    shape = indices.shape[:-1]
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) + starts
    if (starts < 0).any() or not np.array_equal(places, indices):
        return None
    return [(int(start), int(length)) for start, length in zip(starts, shape, strict=True)]
