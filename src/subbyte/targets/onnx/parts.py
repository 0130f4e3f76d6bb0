"""Linear layers of which each part goes its own way (queries, keys and values).

They are written as one layer a part, so that nothing is copied to take the parts from each other,
and each is put on its own grid right where it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.graph.operators import A, get_tensor
from subbyte.targets.onnx.layout import COPIES, LAYOUT
from subbyte.targets.onnx.operators import ONE_SCALE, OPS

# Operators that take a part of a tensor, or divide it into parts: which argument is the dimension.
PICKS: dict[Any, int] = {A.select.int: 1, A.slice.Tensor: 1}
DIVIDES: dict[Any, int] = {
    A.unbind.int: 1,
    A.split.Tensor: 2,
    A.split_with_sizes.default: 2,
    A.chunk.default: 2,
}


@dataclass(frozen=True)
class _Part:
    """What a node takes of another: positions in one dimension; `single`: without the dimension."""

    node: fx.Node
    dimension: int
    positions: list[int]
    single: bool


def split_linears(module: fx.GraphModule) -> None:
    """Write each linear layer on integers as several, if all that is read of it are parts on grids.

    The parts have the levels and scales that they have in the whole.
    """
    for node in list(module.graph.nodes):
        if node.target is OPS.linear.default and _reads_grid(node):
            _split(module, node)
    module.graph.eliminate_dead_code()


def _split(module: fx.GraphModule, linear: fx.Node) -> None:
    node = linear
    while len(node.users) == 1 and next(iter(node.users)).target in LAYOUT:
        node = next(iter(node.users))
    for part in _parts(node):
        rows = _Rows(module, part.node)
        new = rows.of(node, part.dimension, part.positions)
        if new is None:
            return  # what holds for one part holds for all
        if part.single:
            new = rows.call(A.squeeze.dim, (new, part.dimension), part.node.meta["val"])
        part.node.replace_all_uses_with(new)


def _reads_grid(linear: fx.Node) -> bool:
    source = linear.args[0]
    while isinstance(source, fx.Node) and source.target in LAYOUT:
        source = source.args[0]
    return isinstance(source, fx.Node) and source.target is OPS.qdq.default


def _parts(node: fx.Node) -> list[_Part]:
    """All that is read of `node`, if these are parts and each is put on a grid; else nothing."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in DIVIDES:
        takers = [(part, users[0]) for part in users[0].users]
    elif all(user.target in PICKS for user in users):
        takers = [(user, user) for user in users]
    else:
        return []
    parts = [_part(node, part, operator) for part, operator in takers]
    return parts if len(parts) > 1 and all(_meets_grid(part.node) for part in parts) else []


def _part(source: fx.Node, node: fx.Node, operator: fx.Node) -> _Part:
    at = PICKS.get(operator.target) or DIVIDES[operator.target]
    args: list[Any] = [*operator.args, *[0] * (at + 1 - len(operator.args))]
    value = source.meta["val"]
    dimension = args[at] % value.dim()
    args[at] = 0
    target: Any = operator.target
    taken = target(torch.arange(value.shape[dimension]), *args[1:])
    if node is not operator:
        taken = taken[node.args[1]]
    return _Part(node, dimension, taken.reshape(-1).tolist(), taken.dim() == 0)


def _meets_grid(node: fx.Node) -> bool:
    """Whether a grid follows, with no more in between than moves and a product with a number."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target is OPS.qdq.default:
            return True
        by_number = node.target is A.mul.Tensor and not isinstance(node.args[1], fx.Node)
        if node.target not in LAYOUT and not by_number:
            return False
    return False


@dataclass(frozen=True)
class _Rows:
    """Puts in front of `before` what computes no more than some positions of a dimension."""

    module: fx.GraphModule
    before: fx.Node

    def of(self, node: fx.Node, dimension: int, positions: list[int]) -> fx.Node | None:
        """`node` with these positions alone, down from the linear layer; `None`: cannot be."""
        value = node.meta["val"].narrow(dimension, 0, len(positions))
        if node.target is OPS.linear.default:
            last = dimension == node.meta["val"].dim() - 1
            return self._linear(node, positions, value) if last else None
        source: Any = node.args[0]
        args: tuple[Any, ...] = node.args[1:]
        rank = source.meta["val"].dim()
        if node.target is A.permute.default:
            dimension = args[0][dimension] % rank
        elif node.target is A.transpose.int:
            first, second = args[0] % rank, args[1] % rank
            dimension = {first: second, second: first}.get(dimension, dimension)
        elif node.target is A.unsqueeze.default and dimension != args[0] % (rank + 1):
            dimension -= dimension > args[0] % (rank + 1)
        elif node.target is A.squeeze.dim:
            dimension += dimension >= args[0] % rank
        elif node.target in (A.view.default, A.reshape.default):
            found = _before_reshape(node, source, dimension, positions)
            if found is None:
                return None
            args = ([*args[0][:dimension], len(positions), *args[0][dimension + 1 :]],)
            dimension, positions = rank - 1, found
        elif node.target not in COPIES:
            return None
        new = self.of(source, dimension, positions)
        return None if new is None else self.call(node.target, (new, *args), value)

    def _linear(self, linear: fx.Node, outputs: list[int], value: torch.Tensor) -> fx.Node:
        data, weight, bias = linear.args
        args = (data, self._channels(weight, outputs, 1), self._channels(bias, outputs, 0))
        return self.call(OPS.linear.default, args, value)

    def _channels(self, node: Any, channels: list[int], axis: int) -> fx.Node | None:
        """A weight or bias of some channels: its levels, and what else is one a channel."""
        if node is None or node.op == "get_attr":
            return self._constant(node, channels, axis)
        levels, scale, zero_point, of_channel = node.args
        if of_channel != ONE_SCALE:
            scale = self._constant(scale, channels, 0)
            zero_point = self._constant(zero_point, channels, 0)
        args = (self._constant(levels, channels, axis), scale, zero_point, of_channel)
        return self.call(node.target, args, node.meta.get("val"))

    def _constant(self, node: Any, positions: list[int], axis: int) -> fx.Node | None:
        if node is None:
            return None
        value = get_tensor(self.module, node)
        value = value.index_select(axis, torch.tensor(positions, device=value.device))
        name = f"{str(node.target).replace('.', '_')}_{self.before.name}"
        self.module.register_buffer(name, value)
        with self.module.graph.inserting_before(self.before):
            return self.module.graph.get_attr(name)

    def call(self, target: Any, args: tuple[Any, ...], value: Any) -> fx.Node:
        """A node with the value that it has on the example."""
        with self.module.graph.inserting_before(self.before):
            new = self.module.graph.call_function(target, args)
        new.meta = {**self.before.meta, "val": value}
        return new


def _before_reshape(
    node: fx.Node, source: fx.Node, dimension: int, positions: list[int]
) -> list[int] | None:
    """Which of the last dimension, that a reshape takes apart, make up `positions` of a new one."""
    old, new = source.meta["val"].shape, node.meta["val"].shape
    kept = len(old) - 1
    if dimension < kept or [str(n) for n in old[:-1]] != [str(n) for n in new[:kept]]:
        return None
    index = torch.arange(old[-1]).reshape([int(n) for n in new[kept:]])
    taken = index.index_select(dimension - kept, torch.tensor(positions))
    found: list[int] = taken.reshape(-1).tolist()
    return found
