"""From a `Network` to an `OnnxModule`: parameters by good names, and a step for each operator."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.models.onnx.module import Numbers, OnnxModule, Operand, Scope, Step, Value, Weight
from subbyte.models.onnx.names import is_name, layer_of, qualified
from subbyte.models.onnx.network import Network, Node
from subbyte.models.onnx.operators import Operator, operators
from subbyte.models.onnx.sizes import LENGTHS, SIZES, number_values, objects

STATISTICS = ("running_mean", "running_var")  # of batch norm


def translated(network: Network) -> OnnxModule:
    """The module that computes what a network says."""
    return _Translator(network).module()


class _Translator:
    """Gives out names, and remembers which values are numbers.

    Attributes:
        network: What is translated.
        built: The module that grows.
        sizes: Names of values that are numbers, and not tensors, while the module runs.
        paths: Qualified names that constants were given, by the constant and its place.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.built = OnnxModule((given.name for given in network.inputs), network.outputs, steps=())
        self.sizes = number_values(network)
        self.paths: dict[tuple[str, str], str] = {}
        self.readers = Counter(name for node in network.nodes for name in set(node.inputs))

    def module(self) -> OnnxModule:
        steps = [self._step(node) for node in self.network.nodes]
        self._constant_outputs()
        self.built.steps = _freeing(steps, self.network.outputs)
        return self.built

    def _step(self, node: Node) -> Step:
        operator = operators()[node.operator]
        if node.operator not in LENGTHS and self.sizes.intersection(node.outputs):
            operands = tuple(self._number(name) if name else None for name in node.inputs)
            every = frozenset(range(len(operands)))
            return Step(node, SIZES[node.operator], operands, every, "")
        self._check_numbers(node, operator)
        path = self._layer_path(node, operator)
        operands = tuple(
            self._operand(node, operator, place, path) for place in range(len(node.inputs))
        )
        scope = self._scope(path or node.scope)
        return Step(node, operator.function, operands, operator.numbers, scope)

    def _check_numbers(self, node: Node, operator: Operator) -> None:
        for place in operator.numbers:
            name = node.inputs[place] if place < len(node.inputs) else ""
            if name and name not in self.sizes and name not in self.network.constants:
                raise SubbyteError(
                    f"the node {node} takes '{name}' from what is in the image: export the model "
                    "with fixed sizes, and without its post-processing"
                )

    def _number(self, name: str) -> Operand:
        value = self.network.constants.get(name)
        return Value(name) if value is None else Numbers(objects(value))

    def _operand(self, node: Node, operator: Operator, place: int, path: str) -> Operand:
        name = node.inputs[place]
        if not name:
            return None
        value = self.network.constants.get(name)
        if value is None:
            return Value(name)
        if place in operator.numbers:
            return Numbers(objects(value))
        if operator.scalar and value.size == 1 and value.dtype.kind in "fiu":
            return Numbers(objects(value.reshape(())))
        return Weight(self._weight(node, name, place, path))

    def _layer_path(self, node: Node, operator: Operator) -> str:
        """The qualified name of the layer that a node is; empty if it has no constant weight."""
        name = node.inputs[operator.weight] if operator.weight < len(node.inputs) else ""
        if not operator.weight or name not in self.network.constants:
            return ""
        known = self.paths.get((name, "weight"))
        if known is not None:
            return known.rpartition(".")[0] if known.endswith(".weight") else known
        return self._named_layer(node, name)

    def _named_layer(self, node: Node, name: str) -> str:
        """A new name for a layer: by its weight, its bias or its node, whichever has one."""
        weight = name.partition(":transposed")[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        alone = self.readers[bias] == 1 and bias.endswith("bias")
        if is_name(weight):
            path = layer_of(weight)
        elif bias and is_name(bias) and alone:
            own = bias.removesuffix(".bias")
            path = qualified(own if own != bias else f"{bias.removesuffix('bias')}weight")
        else:
            path = node.scope or qualified(node.name) or node.operator.lower()
        return self._free(path, "weight")

    def _free(self, path: str, attribute: str) -> str:
        """`path`, or with a number behind it until it has no such attribute."""
        taken = set(self.paths.values())
        number, found = 1, path
        while f"{found}.{attribute}" in taken or self._blocked(found, attribute):
            number += 1
            found = f"{path}_{number}"
        return found

    def _blocked(self, path: str, attribute: str) -> bool:
        """Whether a parameter stands on the way, or something else where it would."""
        module: Any = self.built
        for part in path.split(".") if path else []:
            module = getattr(module, part, None)
            if module is None:
                return False
            if not isinstance(module, nn.Module):
                return True
        return hasattr(module, attribute)

    def _weight(self, node: Node, name: str, place: int, path: str) -> str:
        """Where the parameter of a constant is; it is put there when it is first read."""
        operator = operators()[node.operator]
        if path and place == operator.weight:
            key, wanted = (name, "weight"), (path, "weight")
        elif path and self.network.constants[name].ndim <= 1:
            key = (name, path)
            wanted = (path, _role(node, place))
        else:
            key, wanted = (name, ""), self._own_name(node, name, place)
        if key not in self.paths:
            scope, attribute = wanted
            free = scope if key[1] == "weight" else self._free(scope, attribute)
            self.paths[key] = f"{free}.{attribute}" if free else attribute
            self._put(free, attribute, self.network.constants[name])
        return self.paths[key]

    def _own_name(self, node: Node, name: str, place: int) -> tuple[str, str]:
        """Module and attribute of a constant that is no layer's."""
        if is_name(name) and (path := qualified(name)):
            scope, _, attribute = path.rpartition(".")
            return scope, f"_{attribute}" if attribute[0].isdigit() else attribute
        del place
        return node.scope or qualified(node.name), "constant"

    def _put(self, scope: str, attribute: str, value: np.ndarray) -> None:
        module = self.built.get_submodule(self._scope(scope))
        tensor = torch.from_numpy(value.copy()).reshape(value.shape)
        learned = attribute not in STATISTICS and tensor.is_floating_point()
        if learned and torch.isfinite(tensor).all():
            module.register_parameter(attribute, nn.Parameter(tensor, requires_grad=True))
        else:
            module.register_buffer(attribute, tensor)

    def _scope(self, path: str) -> str:
        """A module's path, which is there afterwards."""
        module: Any = self.built
        done: list[str] = []
        for part in path.split(".") if path else []:
            while isinstance(getattr(module, part, None), torch.Tensor):
                part += "_"
            if not hasattr(module, part):
                module.add_module(part, Scope())
            module = getattr(module, part)
            done.append(part)
        return ".".join(done)

    def _constant_outputs(self) -> None:
        for name in self.network.outputs:
            if name in self.network.constants:
                raise SubbyteError(
                    f"the output '{name}' does not depend on the image: export the model again"
                )


def _role(node: Node, place: int) -> str:
    if node.operator == "BatchNormalization":
        return ("", "weight", "bias", *STATISTICS)[place]
    return "bias"


def _freeing(steps: list[Step], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    """The steps, each with the names of the values that it is the last to read."""
    kept, found = set(outputs), []
    for step in reversed(steps):
        read = {operand.name for operand in step.operands if isinstance(operand, Value)}
        names = {*read, *(name for name in step.node.outputs if name)}
        found.append(replace(step, last=tuple(sorted(names - kept))))
        kept |= names
    return tuple(found[::-1])
