"""A chain of operators that only give values other places, as the shortest one of its effect."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, constant, integers, put

RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
# Operators that give each value of their first input another place, and leave none out.
LAYOUT = {"Transpose", "Expand", "Identity"} | RESHAPES
UNKNOWN = 1_000_003  # stands for a length that varies: a prime, so that no number divides it


@dataclass(frozen=True)
class Step:
    """An operator that only moves values.

    Attributes:
        kind: Its name.
        inputs: What it reads beside the tensor that it moves.
        attributes: Its attributes by name.
        reshape: The shape that it reads as a new constant; `None`: it reads `inputs`.
    """

    kind: str
    inputs: tuple[ir.Value | None, ...] = ()
    attributes: tuple[tuple[str, Any], ...] = ()
    reshape: tuple[int, ...] | None = None


def is_layout(node: ir.Node | None) -> bool:
    """Whether a node only gives the values of its input other places."""
    return node is not None and not node.domain and node.op_type in LAYOUT


def step_of(node: ir.Node) -> Step:
    """What a node does, to be done elsewhere."""
    given = tuple((name, found.value) for name, found in node.attributes.items())
    return Step(node.op_type, tuple(node.inputs[1:]), given)


def take(
    before: ir.Node, value: ir.Value, step: Step, dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Value:
    """What a step makes of a value, by a new node in front of another.

    Args:
        before: In front of which the new node stands.
        value: What is moved.
        step: How.
        dtype: Of the value.
    """
    inputs = step.inputs
    if step.reshape is not None:
        graph = before.graph
        assert isinstance(graph, ir.Graph)
        inputs = (constant(graph, f"{value.name}_shape", np.array(step.reshape, np.int64)),)
    return put(before, step.kind, [value, *inputs], dict(step.attributes), dtype=dtype)


def permutation(node: ir.Node) -> list[int]:
    """The order into which a Transpose puts the dimensions."""
    source = node.inputs[0]
    assert source is not None
    assert source.shape is not None
    return list(attribute(node, "perm", range(len(source.shape))[::-1]))


def shortest(base: ir.Value, moves: Sequence[ir.Node]) -> list[Step]:
    """Steps from `base` to what the last of `moves` gives: reshape, permute and reshape at most.

    Where the moves have no such form (an `Expand`, a batch that is taken apart) they stay.
    """
    found = _shortest(base, moves)
    return [step_of(move) for move in moves] if found is None else found


def _shortest(base: ir.Value, moves: Sequence[ir.Node]) -> list[Step] | None:
    before = _lengths(base)
    if before is None:
        return None
    sizes, dynamic = before
    atoms = _Atoms(list(range(len(sizes))), list(sizes), set(dynamic))
    dimensions = [[atom] for atom in atoms.order]
    for move in moves:
        moved = _moved(atoms, dimensions, move)
        if moved is None:
            return None
        dimensions = moved
    return _steps(atoms, sizes, dimensions)


@dataclass
class _Atoms:
    """The factors into which the dimensions of the first tensor fall, in its order."""

    order: list[int]
    sizes: list[int]
    dynamic: set[int]

    def split(self, atom: int, first: int) -> tuple[int, int]:
        """Two atoms in the place of one, of sizes `first` and what is left."""
        parts = (len(self.sizes), len(self.sizes) + 1)
        self.sizes += [first, self.sizes[atom] // first]
        at = self.order.index(atom)
        self.order[at : at + 1] = parts
        return parts

    def grouped(
        self, atoms: list[int], lengths: list[int], dynamic: set[int]
    ) -> list[list[int]] | None:
        """`atoms` dealt out to dimensions of `lengths`; `None` if they do not come out even."""
        left = deque(atom for atom in atoms if self.sizes[atom] != 1)
        groups: list[list[int]] = []
        for i, length in enumerate(lengths):
            group, need = list[int](), length
            while need > 1:
                if not left:
                    return None
                atom = left.popleft()
                size = self.sizes[atom]
                if need % size:
                    if size % need or atom in self.dynamic:
                        return None
                    atom, rest = self.split(atom, need)
                    left.appendleft(rest)
                    size = need
                group.append(atom)
                need //= size
            if self.dynamic.isdisjoint(group) != (i not in dynamic):
                return None
            groups.append(group)
        return None if left else groups

    def reshape(self, groups: list[list[int]]) -> Step | None:
        """To these dimensions, −1 for the one that is not known; `None`: there are several."""
        lengths = tuple(
            -1 if self.dynamic.intersection(group) else math.prod(self.sizes[a] for a in group)
            for group in groups
        )
        return None if lengths.count(-1) > 1 else Step("Reshape", reshape=lengths)


def _moved(atoms: _Atoms, dimensions: list[list[int]], move: ir.Node) -> list[list[int]] | None:
    if move.op_type == "Transpose":
        return [dimensions[d] for d in permutation(move)]
    if move.op_type == "Identity":
        return dimensions
    after = _lengths(move.outputs[0])
    if move.op_type not in RESHAPES or after is None:
        return None
    return atoms.grouped([a for group in dimensions for a in group], *after)


def _steps(atoms: _Atoms, before: list[int], dimensions: list[list[int]]) -> list[Step] | None:
    old = [atom for atom in atoms.order if atoms.sizes[atom] != 1]
    new = [atom for group in dimensions for atom in group if atoms.sizes[atom] != 1]
    if old == new:
        lengths = [math.prod(atoms.sizes[atom] for atom in group) for group in dimensions]
        return [] if lengths == before else _all([atoms.reshape(dimensions)])
    steps: list[Step | None] = []
    if [atoms.sizes[atom] for atom in old] != before:
        steps.append(atoms.reshape([[atom] for atom in old]))
    order = [old.index(atom) for atom in new]
    steps.append(Step("Transpose", attributes=(("perm", order),)))
    if [[atom] for atom in new] != dimensions:
        steps.append(atoms.reshape(dimensions))
    return _all(steps)


def _all(steps: list[Step | None]) -> list[Step] | None:
    """The steps, if each of them can be written."""
    found = [step for step in steps if step is not None]
    return found if len(found) == len(steps) else None


def _lengths(value: ir.Value) -> tuple[list[int], set[int]] | None:
    """Lengths as numbers, and which dimensions' vary; `None`: these have no form that we read."""
    if value.shape is None:
        return None
    lengths, dynamic = [], set()
    for i, length in enumerate(value.shape):
        if isinstance(length, int):
            lengths.append(length)
            continue
        dynamic.add(i)
        names = sorted(length.free_symbols())
        found = length.evaluate({name: UNKNOWN + 2 * i for i, name in enumerate(names)})
        if not isinstance(found, int) or length.value is None:
            return None
        lengths.append(found)
    return lengths, dynamic


def constant_axes(node: ir.Node, rank: int) -> list[int] | None:
    """The dimensions that a Squeeze or Unsqueeze names, of so many; `None`: not by constants."""
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if axes is None else sorted(axis % rank for axis in axes)
