"""A chain of operators that only give values other places, as the shortest one of its effect."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.graph.operators import A

Step = tuple[Any, tuple[Any, ...]]

COPIES = {
    A.contiguous.default,
    A.clone.default,
    A.alias.default,
    A.detach.default,
    A.dropout.default,
}
RESHAPES = {
    A.view.default,
    A.reshape.default,
    A.flatten.using_ints,
    A.unflatten.int,
    A.squeeze.default,
    A.squeeze.dim,
    A.squeeze.dims,
    A.unsqueeze.default,
}
# Operators that give each value of their one input another place, and leave none out.
LAYOUT = {A.permute.default, A.transpose.int, A.expand.default} | COPIES | RESHAPES


def shortest(base: fx.Node, moves: tuple[fx.Node, ...]) -> list[Step]:
    """Operators and their arguments behind the input: reshape, permute and reshape at most.

    Where the moves have no such form (an `expand`, a batch that is taken apart) they stay.
    """
    atoms = _Atoms.of(base.meta["val"].shape)
    dimensions = [[atom] for atom in atoms.order]
    for move in moves:
        moved = _moved(atoms, dimensions, move)
        if moved is None:
            return [(move.target, move.args[1:]) for move in moves]
        dimensions = moved
    return _steps(atoms, [_hint(n) for n in base.meta["val"].shape], dimensions)


@dataclass
class _Atoms:
    """The factors into which the dimensions of the first tensor fall, in its order."""

    order: list[int]
    sizes: list[int]
    dynamic: set[int]

    @classmethod
    def of(cls, shape: torch.Size) -> _Atoms:
        sizes = [_hint(n) for n in shape]
        dynamic = {i for i, n in enumerate(shape) if not isinstance(n, int)}
        return cls(list(range(len(sizes))), sizes, dynamic)

    def split(self, atom: int, first: int) -> tuple[int, int]:
        """Two atoms in the place of one, of sizes `first` and what is left."""
        parts = (len(self.sizes), len(self.sizes) + 1)
        self.sizes += [first, self.sizes[atom] // first]
        at = self.order.index(atom)
        self.order[at : at + 1] = parts
        return parts

    def grouped(self, atoms: list[int], shape: torch.Size) -> list[list[int]] | None:
        """`atoms` dealt out to the dimensions of `shape`; `None` if they do not come out even."""
        left = deque(atom for atom in atoms if self.sizes[atom] != 1)
        groups: list[list[int]] = []
        for length in shape:
            group, need = list[int](), _hint(length)
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
            if self.dynamic.isdisjoint(group) != isinstance(length, int):
                return None
            groups.append(group)
        return None if left else groups

    def shape(self, groups: list[list[int]]) -> list[int]:
        """Lengths for a reshape, −1 for the one that is not known."""
        return [
            -1 if self.dynamic.intersection(group) else math.prod(self.sizes[a] for a in group)
            for group in groups
        ]


def _moved(atoms: _Atoms, dimensions: list[list[int]], move: fx.Node) -> list[list[int]] | None:
    args: tuple[Any, ...] = move.args[1:]
    if move.target is A.permute.default:
        return [dimensions[d] for d in args[0]]
    if move.target is A.transpose.int:
        swapped = list(dimensions)
        swapped[args[0]], swapped[args[1]] = swapped[args[1]], swapped[args[0]]
        return swapped
    if move.target in COPIES:
        return dimensions
    if move.target not in RESHAPES:
        return None
    return atoms.grouped([a for group in dimensions for a in group], move.meta["val"].shape)


def _steps(atoms: _Atoms, before: list[int], dimensions: list[list[int]]) -> list[Step]:
    old = [atom for atom in atoms.order if atoms.sizes[atom] != 1]
    new = [atom for group in dimensions for atom in group if atoms.sizes[atom] != 1]
    steps: list[Step] = []
    if [atoms.sizes[atom] for atom in old] != before:
        steps.append((A.reshape.default, (atoms.shape([[atom] for atom in old]),)))
    if old != new:
        steps.append((A.permute.default, ([old.index(atom) for atom in new],)))
    if [[atom] for atom in new] != dimensions:
        steps.append((A.reshape.default, (atoms.shape(dimensions),)))
    return steps


def _hint(length: Any) -> int:
    """A length as a number: that of the example, where it is not fixed."""
    return length if isinstance(length, int) else int(length.node.hint)
