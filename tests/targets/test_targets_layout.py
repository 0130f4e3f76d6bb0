"""Chains of moves: what the shortest one moves where."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from subbyte.targets.onnx.graph import array, attribute
from subbyte.targets.onnx.layout import Step, shortest


def chain(shape: list[int | str], *moves: tuple[str, object, list[int | str]]) -> list[ir.Value]:
    """A value and what moves make of it one after the other: operator, setting, shape."""
    values = [ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))]
    for kind, setting, after in moves:
        if kind == "Transpose":
            node = ir.node(kind, [values[-1]], {"perm": setting})
        else:
            given = ir.Value(name="c", const_value=ir.tensor(np.array(setting, np.int64)))
            node = ir.node(kind, [values[-1], given])
        node.outputs[0].shape = ir.Shape(after)
        values.append(node.outputs[0])
    return values


def moved(x: np.ndarray, steps: list[Step]) -> np.ndarray:
    """What steps make of an array."""
    for step in steps:
        given = dict(step.attributes)
        if step.kind == "Transpose":
            x = x.transpose(given["perm"])
        else:
            x = x.reshape(step.reshape or array(step.inputs[0]))
    return x


HEADS = [  # tokens into heads and back, with some detours
    ("Reshape", [-1, 6, 2, 4], ["N", 6, 2, 4]),
    ("Transpose", [0, 2, 1, 3], ["N", 2, 6, 4]),
    ("Reshape", [-1, 12, 4], ["N", 12, 4]),
    ("Reshape", [-1, 2, 6, 4], ["N", 2, 6, 4]),
    ("Transpose", [0, 1, 3, 2], ["N", 2, 4, 6]),
    ("Unsqueeze", [1], ["N", 1, 2, 4, 6]),
]


@pytest.mark.parametrize("count", range(len(HEADS) + 1))
def test_the_shortest_chain_moves_as_the_whole_does(count: int) -> None:
    values = chain(["N", 6, 8], *HEADS[:count])
    steps = shortest(values[0], [value.producer() for value in values[1:]])
    kinds = [step.kind for step in steps]
    assert len(kinds) <= 3
    assert kinds.count("Transpose") <= 1
    x = np.arange(3 * 6 * 8).reshape(3, 6, 8)
    expected = x
    for kind, setting, _ in HEADS[:count]:
        if kind == "Transpose":
            expected = expected.transpose(setting)
        elif kind == "Unsqueeze":
            expected = expected[:, None]
        else:
            expected = expected.reshape(setting)
    np.testing.assert_array_equal(moved(x, steps), expected)


def test_what_is_undone_is_no_step() -> None:
    values = chain(["N", 6, 8], HEADS[0], ("Reshape", [-1, 6, 8], ["N", 6, 8]))
    assert shortest(values[0], [value.producer() for value in values[1:]]) == []


def test_a_batch_that_is_taken_apart_stays_as_it_is() -> None:
    values = chain(["4*N", 6], ("Reshape", [-1, 4, 6], ["N", 4, 6]))
    (step,) = shortest(values[0], [values[1].producer()])
    assert (step.kind, step.reshape) == ("Reshape", None)
    assert attribute(values[1].producer(), "axis") is None


def test_a_batch_that_is_merged_is_one_length() -> None:
    moves = ("Transpose", [1, 0, 2], [6, "N", 8]), ("Reshape", [6, -1], [6, "8*N"])
    values = chain(["N", 6, 8], *moves)
    steps = shortest(values[0], [value.producer() for value in values[1:]])
    x = np.arange(5 * 6 * 8).reshape(5, 6, 8)
    np.testing.assert_array_equal(moved(x, steps), x.transpose(1, 0, 2).reshape(6, -1))
