"""The batch of a file made dynamic: what holds its size as a number takes it from the images.

Each operator runs on two batches by themselves and on both together. Where what it gives for both
is not the two results joined, the numbers in it are replaced by multiples of the batch size until
it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models.onnx.joined import joined, same
from subbyte.models.onnx.module import Numbers, OnnxModule, Step, Value, Weight
from subbyte.models.onnx.network import Input, Network
from subbyte.models.onnx.operators import operators

SIDE = 256  # of images, where the file takes any
TRIES = 200  # other ways that are tried in all
Values = dict[str, Any]


@dataclass
class _Runs:
    """What was computed so far.

    Attributes:
        first: For the first batch alone.
        second: For the second.
        both: For both together.
        size: How many images a batch has.
        outer: Of what depends on images, and not on how many there are alone, how many values lie
            before the batch: the lengths in front of it, multiplied.
    """

    first: Values
    second: Values
    both: Values
    size: int
    outer: dict[str, int]

    def copy(self) -> _Runs:
        """The same values, which go their own way from here."""
        first, second, both = (dict(values) for values in (self.first, self.second, self.both))
        return _Runs(first, second, both, self.size, dict(self.outer))


@dataclass(frozen=True)
class Checked:
    """A network that was run.

    Attributes:
        steps: Its operators, changed so that any batch size runs.
        ranks: How many dimensions each output has; `None`: that is not known.
    """

    steps: tuple[Step, ...]
    ranks: tuple[int | None, ...]


@dataclass(frozen=True)
class _Choice:
    """An operator that can be meant in several ways, and what was computed before it."""

    place: int
    runs: _Runs
    variants: Iterator[Step]


def with_any_batch(module: OnnxModule, network: Network) -> Checked:
    """The steps of a module, changed so that any batch size runs.

    Raises:
        SubbyteError: An operator holds the batch size in another way; it is named.
    """
    with torch.no_grad():
        return _Search(module, network).run()


class _Search:
    """Tries what operators can be meant to be, and goes back where one does not fit.

    Attributes:
        module: The module.
        network: What it was made from.
        dynamic: Whether the file says that the batch is dynamic; then shapes are believed wherever
            they fit, though a 1 may be the batch.
        known: Whether the file says the size of its images.
        images: The first input of the three runs.
    """

    def __init__(self, module: OnnxModule, network: Network) -> None:
        self.module, self.network = module, network
        self.begin = _begin(network)
        self.dynamic = any(x.batch or (x.shape and x.shape[0] is None) for x in network.inputs)
        self.known = all(n is not None for x in network.inputs for n in (x.shape or (None,))[1:])
        name = module.input_names[0]
        self.images = [v[name] for v in (self.begin.first, self.begin.second, self.begin.both)]

    def run(self) -> Checked:
        steps: list[Step] = []
        choices: list[_Choice] = []
        runs, tries, furthest = self.begin.copy(), 0, 0
        resumed: Iterator[Step] | None = None
        while len(steps) < len(self.module.steps) or not self._are_joined(runs):
            place, fits = len(steps), False
            if place < len(self.module.steps):
                furthest = max(furthest, place)
                step = self._with_known(self.module.steps[place], runs)
                alone = self._alone(step, runs)
                if alone is None:
                    return Checked(self.module.steps, self.network.ranks)
                variants = resumed or _variants(step, runs, alone[0], self.dynamic)
                before = runs.copy() if _has_choice(step) else None
                changed = self._take(variants, runs, alone)
                if changed is not None:
                    steps.append(changed)
                    fits = True
                    if before is not None:
                        choices.append(_Choice(place, before, variants))
            resumed = None
            if not fits:
                tries += 1
                if not choices or tries > TRIES:
                    return self._failed(furthest)
                choice = choices.pop()
                runs, resumed = choice.runs, choice.variants
                del steps[choice.place :]
        ranks = [np.ndim(runs.first[name]) for name in self.network.outputs]
        return Checked(tuple(steps), tuple(ranks))

    def _with_known(self, step: Step, runs: _Runs) -> Step:
        """A step with shapes as numbers, where they are computed and the same for any batch."""
        if not self.known:
            return step
        operands = list(step.operands)
        for place, operand in enumerate(operands):
            if place in step.as_numbers and isinstance(operand, Value):
                first, both = runs.first[operand.name], runs.both[operand.name]
                if np.array_equal(first, both):
                    operands[place] = Numbers(first)
        return replace(step, operands=tuple(operands))

    def _failed(self, place: int) -> Checked:
        if not self.known and self.dynamic:  # images of another size may fit
            return Checked(self.module.steps, self.network.ranks)
        raise SubbyteError(
            f"the file's batch is fixed to {self.begin.size} at the node "
            f"{self.module.steps[place].node}: export it with a dynamic batch"
        )

    def _alone(self, step: Step, runs: _Runs) -> tuple[Values, Values] | None:
        """What an operator gives for each batch; `None`, if the images may be of a wrong size."""
        try:
            first = self.module.run(step, runs.first, self.images[0])
            second = self.module.run(step, runs.second, self.images[1])
        except Exception as error:
            if not self.known:
                return None
            raise SubbyteError(
                f"the node {step.node} cannot be computed: {_line(error)}"
            ) from error
        for name in step.node.outputs:
            if name and name not in first:
                raise SubbyteError(
                    f"the output '{name}' of the node {step.node} has no counterpart here: export "
                    "the model without it"
                )
        return first, second

    def _take(
        self, variants: Iterator[Step], runs: _Runs, alone: tuple[Values, Values]
    ) -> Step | None:
        """The first of the variants that treats two batches as it treats each; it is computed."""
        for changed in variants:
            both = _joined_all(self.module, changed, runs, self.images[2], *alone)
            if both is not None:
                for values, given in zip(
                    (runs.first, runs.second, runs.both), (*alone, both), strict=True
                ):
                    values.update(given)
                    for name in changed.last:
                        values.pop(name, None)
                return changed
        return None

    def _are_joined(self, runs: _Runs) -> bool:
        """Whether the outputs for both batches are those of the one behind those of the other."""
        for name in self.network.outputs:
            first, second, both = runs.first[name], runs.second[name], runs.both[name]
            if not isinstance(both, Tensor) or name not in runs.outer:
                continue
            if not first.dim() or not same(torch.cat([first, second]), both):
                return False
        return True


def _has_choice(step: Step) -> bool:
    """Whether a new shape may hold the batch in several places."""
    return step.node.operator == "Reshape" and isinstance(step.operands[1], Numbers)


def _begin(network: Network) -> _Runs:
    """Random images: two batches of them, and both together."""
    lengths = [x.shape[0] for x in network.inputs if x.shape and len(x.shape) > 2]
    size = next((n for n in lengths if n is not None), 1)
    generator = torch.Generator().manual_seed(0)
    first, second, both = {}, {}, {}
    for given in network.inputs:
        a, b = (_example(given, size, generator) for _ in range(2))
        shared = given.shape is not None and len(given.shape) > 0 and given.shape[0] in (None, size)
        first[given.name], second[given.name] = a, b if shared else a
        both[given.name] = torch.cat([a, b]) if shared else a
    return _Runs(first, second, both, size, dict.fromkeys(first, 1))


def _example(given: Input, size: int, generator: torch.Generator) -> Tensor:
    shape = list(given.shape or (None, 3, None, None))
    if shape:
        shape[0] = size if shape[0] is None else shape[0]
    colours = 1 if len(shape) == 4 else 0
    filled = [(3 if i == colours and i else SIDE) if n is None else n for i, n in enumerate(shape)]
    if given.dtype == "float32":
        return torch.rand(filled, generator=generator)
    kind = getattr(torch, given.dtype)
    return torch.randint(0, 2, filled, generator=generator).to(kind)


def _joined_all(
    module: OnnxModule, step: Step, runs: _Runs, image: Tensor, first: Values, second: Values
) -> Values | None:
    """What a step gives for both batches, if that is the two results joined; else `None`."""
    try:
        both = module.run(step, runs.both, image)
    except Exception:
        return None  # a shape that does not fit is what is looked for
    found: Values = {}
    sources = {operand.name for operand in step.operands if isinstance(operand, Value)}
    of_images = not sources.isdisjoint(runs.outer)
    outer: dict[str, int] = {}
    for name, value in both.items():
        found[name] = value
        if isinstance(value, Tensor) and of_images:
            together = joined(first[name], second[name], value)
            if together is None:
                return None
            found[name], outer[name] = together
    runs.outer.update(outer)
    return found


def _variants(step: Step, runs: _Runs, first: Values, as_written: bool) -> Iterator[Step]:
    """A step as it is, and in the ways in which it may be meant for any batch size.

    Args:
        step: The step.
        runs: What was computed before it.
        first: What it gives for the first batch.
        as_written: Whether a new shape that fits is believed, where one of its lengths could be
            the batch size.
    """
    if step.as_numbers.issuperset(range(len(step.operands))):
        return iter([step])
    changed = [
        _with(step, place, numbers)
        for place, operand in enumerate(step.operands)
        if place in step.as_numbers and isinstance(operand, Numbers)
        for numbers in _meant(step, place, operand, runs, first)
    ]
    sized = [] if as_written else [other for other in changed if _is_sized(other, step, runs.size)]
    short = _unbatched(step, runs)
    spread = [replace(step, spread=frozenset(short))] if short else []
    spread += _as_shape(step, runs, first)
    return iter(
        [
            *sized,
            step,
            *spread,
            *(other for other in changed if all(other is not one for one in sized)),
        ]
    )


def _as_shape(step: Step, runs: _Runs, first: Values) -> list[Step]:
    """A gathering of all values in their order as the new shape that it is.

    PyTorch's exporter writes strides so.
    """
    source, places = [*step.operands, None][:2]
    if step.node.operator != "Gather" or not isinstance(source, Value):
        return []
    (given,) = first.values()
    if not isinstance(places, Weight) or runs.first[source.name].shape != (given.numel(),):
        return []
    shape = np.array(given.shape, dtype=object)
    node = replace(step.node, operator="Reshape", attributes={})
    function, as_numbers = operators()["Reshape"].function, operators()["Reshape"].numbers
    reshaped = replace(step, node=node, function=function, as_numbers=as_numbers)
    return [
        replace(reshaped, operands=(source, Numbers(shape, ((i, n // runs.size),))))
        for i, n in enumerate(given.shape)
        if n % runs.size == 0
    ]


def _with(step: Step, place: int, numbers: Numbers) -> Step:
    operands = list(step.operands)
    operands[place] = numbers
    return replace(step, operands=tuple(operands))


def _is_sized(changed: Step, step: Step, size: int) -> bool:
    """Whether a shape changed where the file has the batch size itself."""
    numbers, written = changed.operands[-1], step.operands[-1]
    if step.node.operator != "Reshape" or not isinstance(numbers, Numbers):
        return False
    assert isinstance(written, Numbers)
    return bool(written.values.reshape(-1)[numbers.batched[0][0]] == size)


def _unbatched(step: Step, runs: _Runs) -> list[int]:
    """The operands that are the same for all images, with a first axis for them."""
    found = []
    for place, operand in enumerate(step.operands):
        if place in step.as_numbers or operand is None or isinstance(operand, Numbers):
            continue
        if isinstance(operand, Weight) or not _varies(runs, operand):
            found.append(place)
    return found if len(found) < len(step.operands) else []


def _varies(runs: _Runs, operand: Value) -> bool:
    first, both = runs.first[operand.name], runs.both[operand.name]
    return not isinstance(first, Tensor) or first.shape != both.shape


def _meant(
    step: Step, place: int, operand: Numbers, runs: _Runs, first: Values
) -> Iterator[Numbers]:
    """Numbers with one of them a multiple of the batch size: where it is the size itself first."""
    values = operand.values.reshape(-1).tolist()
    source, before = step.operands[0], None
    if step.node.operator == "Reshape":
        values = list(next(iter(first.values())).shape)  # what 0 and -1 are, too
        before = runs.outer.get(source.name) if isinstance(source, Value) else None
    whole = [i for i, n in enumerate(values) if isinstance(n, int) and n > 0 and n % runs.size == 0]

    def order(i: int) -> tuple[bool, bool, bool]:
        """The batch's own length first, then one that begins where the batch does."""
        begins = math.prod(values[:i]) == before
        last = i == len(values) - 1
        return values[i] != runs.size, last, not begins

    for i in sorted(whole, key=order):
        yield Numbers(operand.values, ((i, values[i] // runs.size),))


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:;!") if lines else type(error).__name__
