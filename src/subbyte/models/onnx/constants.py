"""Constant folding: what no image reaches is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from subbyte.errors import SubbyteError
from subbyte.models.onnx.network import Network, Node
from subbyte.models.onnx.operators import operators
from subbyte.models.onnx.sizes import objects

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}


def folded(network: Network) -> Network:
    """A network in which each operator reads something that depends on an input.

    Raises:
        SubbyteError: An operator has no counterpart.
    """
    constants, nodes = dict(network.constants), []
    for node in network.nodes:
        function = operators().get(node.operator)
        if function is None:
            raise unsupported(node)
        given = [name for name in node.inputs if name]
        if all(name in constants for name in given) and node.operator not in RANDOM:
            constants.update(_computed(node, constants))
        else:
            nodes.append(node)
    return network.with_nodes(nodes, constants)


def unsupported(node: Node) -> SubbyteError:
    """The error for an operator without a counterpart."""
    domain, _, name = node.operator.rpartition("::")
    of = f" of the domain '{domain}'" if domain else ""
    return SubbyteError(
        f"the operator {name}{of} of node '{node.name}' has no counterpart here: export the model "
        "without it, and without its post-processing"
    )


def _computed(node: Node, constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    operator = operators()[node.operator]
    operands: list[Any] = []
    for place, name in enumerate(node.inputs):
        if not name:
            operands.append(None)
        elif place in operator.numbers:
            operands.append(objects(constants[name]))
        else:
            value = constants[name]
            operands.append(torch.from_numpy(value.copy()).reshape(value.shape))
    with torch.no_grad():
        given = operator.function(node, *operands)
    given = given if isinstance(given, tuple) else (given,)
    return {name: _array(value) for name, value in zip(node.outputs, given, strict=False) if name}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):  # lengths
        return value.astype(np.int64)
    array: np.ndarray = value.detach().contiguous().numpy()
    return array
