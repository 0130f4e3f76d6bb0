"""The module that an ONNX file becomes: its operators, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subbyte.models.onnx.network import Lengths, Node

Function = Callable[..., Any]


@dataclass(frozen=True)
class Value:
    """What an input of the file or an operator before gives, by its name."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A parameter or a buffer of the module, by its qualified name."""

    path: str


@dataclass(frozen=True)
class Numbers:
    """Numbers that are known beforehand, such as a shape.

    Attributes:
        values: An array of Python's numbers.
        batched: Which of them, in a flat order, are multiples of the batch size, and how many
            times it.
    """

    values: np.ndarray
    batched: tuple[tuple[int, int], ...] = ()

    def at(self, batch: Any) -> np.ndarray:
        """The numbers at a batch size, which may be a symbol of `torch.export`."""
        if not self.batched:
            return self.values
        values = self.values.copy()
        for place, times in self.batched:
            values.reshape(-1)[place] = batch * times
        return values


Operand = Value | Weight | Numbers | None


@dataclass(frozen=True)
class Step:
    """One operator with all it needs.

    Attributes:
        node: The operator in the file.
        function: What computes it, of the node and the operands.
        operands: What it reads; `None` was left out.
        as_numbers: Which of the operands are numbers to it, and not tensors.
        scope: The module that it belongs to.
        spread: Which of the operands are the same for all images, and are repeated for each.
        last: Names of values that no operator behind it reads.
    """

    node: Node
    function: Function
    operands: tuple[Operand, ...]
    as_numbers: frozenset[int]
    scope: str
    spread: frozenset[int] = frozenset()
    last: tuple[str, ...] = ()


class Scope(nn.Module):
    """A module of the network that the file was made from: it holds weights, and runs operators.

    Operators run through it, so that what captures the network knows where they belong.
    """

    def forward(self, function: Function, node: Node, operands: Iterable[Any]) -> Any:
        """What an operator gives.

        Args:
            function: What computes it.
            node: The operator in the file.
            operands: What it reads.
        """
        return function(node, *operands)


class OnnxModule(nn.Module):
    """An ONNX file as a module, in float32, for any batch size.

    Attributes:
        input_names: The file's names of its inputs, which are the positional arguments.
        input_shapes: Their lengths in the file; `None`: any, and of a shape, of any rank.
        output_names: Those of its outputs: one tensor, or a tuple in this order.
        output_ranks: How many dimensions each of them has; `None`: that is not known.
        steps: The operators in their order.
    """

    def __init__(
        self, input_names: Iterable[str], output_names: Iterable[str], steps: Iterable[Step]
    ) -> None:
        super().__init__()
        self.input_names = tuple(input_names)
        self.input_shapes: tuple[Lengths | None, ...] = (None,) * len(self.input_names)
        self.output_names = tuple(output_names)
        self.output_ranks: tuple[int | None, ...] = (None,) * len(self.output_names)
        self.steps = tuple(steps)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The file's outputs, of its inputs in their order."""
        if len(inputs) != len(self.input_names):
            raise TypeError(
                f"the file takes {', '.join(self.input_names)}, and is given {len(inputs)} tensors"
            )
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        for step in self.steps:
            values.update(self.run(step, values, inputs[0]))
            for name in step.last:
                values.pop(name, None)
        found = tuple(as_tensor(values[name], inputs[0].device) for name in self.output_names)
        return found[0] if len(found) == 1 else found

    def run(self, step: Step, values: dict[str, Any], image: Tensor) -> dict[str, Any]:
        """What one operator gives, by name.

        Args:
            step: The operator.
            values: What was computed before.
            image: The first input, which says batch size and device.
        """
        operands = [
            self._operand(operand, values, image, place in step.as_numbers)
            for place, operand in enumerate(step.operands)
        ]
        for place in step.spread:
            own = operands[place]
            operands[place] = own.expand([image.shape[0], *own.shape[1:]])
        if step.scope:
            scope = self.get_submodule(step.scope)
            given = scope(step.function, step.node, operands)
        else:
            given = step.function(step.node, *operands)
        given = given if isinstance(given, tuple | list) else (given,)
        given = [x.to(image.device) if isinstance(x, Tensor) else x for x in given]
        return {name: value for name, value in zip(step.node.outputs, given, strict=False) if name}

    def _operand(
        self, operand: Operand, values: dict[str, Any], image: Tensor, number: bool
    ) -> Any:
        if operand is None:
            return None
        if isinstance(operand, Value):
            value = values[operand.name]
        elif isinstance(operand, Weight):
            path, _, name = operand.path.rpartition(".")
            value = getattr(self.get_submodule(path), name)
        else:
            value = operand.at(image.shape[0])
        if number or not isinstance(value, np.ndarray):
            return value
        return value.item() if value.ndim == 0 else as_tensor(value, image.device)


def as_tensor(value: Any, device: torch.device) -> Any:
    """Numbers as a tensor; they may be symbols of `torch.export`."""
    if not isinstance(value, np.ndarray):
        return value
    flat = value.reshape(-1).tolist()
    whole = all(isinstance(n, int | torch.SymInt) for n in flat)
    dtype = torch.int64 if whole else torch.float32
    if flat and all(isinstance(n, bool) for n in flat):
        dtype = torch.bool
    if any(isinstance(n, torch.SymInt | torch.SymFloat) for n in flat):
        parts = [torch.scalar_tensor(n, dtype=dtype, device=device) for n in flat]
        return torch.stack(parts).reshape(value.shape)
    return torch.tensor(flat, dtype=dtype, device=device).reshape(value.shape)
