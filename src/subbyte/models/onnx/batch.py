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

import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models.onnx.module import Numbers, OnnxModule, Step, Value, Weight
from subbyte.models.onnx.network import Input, Network

SIDE = 256  # of images, where the file takes any
TOLERANCE = 1e-3  # of the largest value: one operator, other sums
Values = dict[str, Any]


@dataclass
class _Runs:
    """What was computed so far.

    Attributes:
        first: For the first batch alone.
        second: For the second.
        both: For both together.
        size: How many images a batch has.
        images: Names of what depends on images, and not on how many there are alone.
    """

    first: Values
    second: Values
    both: Values
    size: int
    images: set[str]


def with_any_batch(module: OnnxModule, network: Network) -> tuple[Step, ...]:
    """The steps of a module, changed so that any batch size runs.

    Raises:
        SubbyteError: An operator holds the batch size in another way; it is named.
    """
    if any(x.batch or (x.shape and x.shape[0] is None) for x in network.inputs):
        try:
            return _checked(module, network, as_written=True)
        except SubbyteError:
            pass  # the file says that it is dynamic, and holds a size all the same
    return _checked(module, network, as_written=False)


def _checked(module: OnnxModule, network: Network, as_written: bool) -> tuple[Step, ...]:
    """The steps, each changed if it has to be.

    Args:
        module: The module.
        network: What it was made from.
        as_written: Whether shapes are believed wherever they fit, though a 1 may be the batch.
    """
    runs = _begin(network)
    names = module.input_names
    images = [values[names[0]] for values in (runs.first, runs.second, runs.both)]
    steps: list[Step] = []
    known = all(n is not None for x in network.inputs for n in (x.shape or (None,))[1:])
    with torch.no_grad():
        for step in module.steps:
            try:
                first = module.run(step, runs.first, images[0])
                second = module.run(step, runs.second, images[1])
            except Exception as error:
                if not known:  # our images are not of a size that the network takes
                    return module.steps
                raise SubbyteError(
                    f"the node {step.node} cannot be computed: {_line(error)}"
                ) from error
            missing = [name for name in step.node.outputs if name and name not in first]
            if missing:
                raise SubbyteError(f"the output '{missing[0]}' of the node {step.node} is not known")
            for changed in _variants(step, runs, first, as_written):
                joined = _joined_all(module, changed, runs, images[2], first, second)
                if joined is not None:
                    break
            else:
                raise _fixed(step, runs.size)
            steps.append(changed)
            for values, given in ((runs.first, first), (runs.second, second), (runs.both, joined)):
                values.update(given)
                for name in step.last:
                    values.pop(name, None)
    return tuple(steps)


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
    return _Runs(first, second, both, size, set(first))


def _example(given: Input, size: int, generator: torch.Generator) -> Tensor:
    shape = list(given.shape or (None, 3, None, None))
    if shape:
        shape[0] = size if shape[0] is None else shape[0]
    colours = 1 if len(shape) == 4 else 0
    filled = [
        (3 if i == colours and i else SIDE) if n is None else n for i, n in enumerate(shape)
    ]
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
    of_images = not runs.images.isdisjoint(sources)
    for name, value in both.items():
        if isinstance(value, Tensor) and of_images:
            runs.images.add(name)
            value = _joined(first[name], second[name], value)
            if value is None:
                return None
        found[name] = value
    return found


def _joined(first: Tensor, second: Tensor, both: Tensor) -> Tensor | None:
    """Two results as one, along the axis that makes them what both batches gave together."""
    if first.shape == both.shape:
        return first if _same(first, second) and _same(first, both) else None
    if first.dim() != both.dim():
        return None
    axes = [i for i in range(first.dim()) if first.shape[i] != both.shape[i]]
    if len(axes) != 1 or both.shape[axes[0]] != 2 * first.shape[axes[0]]:
        return None
    axis = axes[0]
    for joined in _joins(first, second, axis):
        if _same(joined, both):
            return joined
    return None


def _joins(first: Tensor, second: Tensor, axis: int) -> Iterator[Tensor]:
    """One batch behind the other, and image by image within what an axis was merged of."""
    length = first.shape[axis]
    for inner in [n for n in range(length, 0, -1) if length % n == 0]:
        apart = [
            x.reshape([*x.shape[:axis], length // inner, inner, *x.shape[axis + 1 :]])
            for x in (first, second)
        ]
        joined = torch.cat(apart, axis + 1)
        yield joined.reshape([*first.shape[:axis], 2 * length, *first.shape[axis + 1 :]])


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    if not left.is_floating_point() or not left.numel():
        return torch.equal(left, right)
    largest, difference = left.abs().max().item(), (left - right).abs().max().item()
    if math.isfinite(largest + difference):
        return difference <= TOLERANCE * largest
    return torch.allclose(left, right, TOLERANCE, equal_nan=True)


def _variants(step: Step, runs: _Runs, first: Values, as_written: bool) -> Iterator[Step]:
    """A step as it is, and in the ways in which it may be meant for any batch size.

    Args:
        step: The step.
        runs: What was computed before it.
        first: What it gives for the first batch.
        as_written: Whether a new shape that fits is believed, where one of its lengths could be
            the batch size.
    """
    size = runs.size
    if step.node.operator == "Reshape" and not as_written:
        for numbers in _shapes_of_batch(step, size, first):
            yield replace(step, operands=(step.operands[0], numbers))
    yield step
    short = _unbatched(step, runs)
    if short:
        yield replace(step, spread=frozenset(short))
    for place, operand in enumerate(step.operands):
        if place not in step.as_numbers or not isinstance(operand, Numbers):
            continue
        for values in _meant(step, place, operand, size, first):
            operands = list(step.operands)
            operands[place] = values
            yield replace(step, operands=tuple(operands))


def _shapes_of_batch(step: Step, size: int, first: Values) -> Iterator[Numbers]:
    """New shapes in which a length that the file says to be the batch size is the batch size."""
    shape = step.operands[1]
    if isinstance(shape, Numbers):
        written = shape.values.reshape(-1).tolist()
        for numbers in _meant(step, 1, shape, size, first):
            if written[numbers.batched[0][0]] == size:
                yield numbers


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
    step: Step, place: int, operand: Numbers, size: int, first: Values
) -> Iterator[Numbers]:
    """Numbers with one of them a multiple of the batch size: where it is the size itself first."""
    values = operand.values.reshape(-1).tolist()
    if step.node.operator == "Reshape" and place == 1:
        given = next(iter(first.values()))
        values = list(given.shape)  # what 0 and -1 are, too
    whole = [i for i, n in enumerate(values) if isinstance(n, int) and n > 0 and n % size == 0]
    for i in sorted(whole, key=lambda i: values[i] != size):
        yield Numbers(operand.values, ((i, values[i] // size),))


def _fixed(step: Step, size: int) -> SubbyteError:
    return SubbyteError(
        f"the file's batch is fixed to {size} at the node {step.node}: export it with a dynamic "
        "batch"
    )


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:;!") if lines else type(error).__name__
