"""Files whose batch is fixed to one image, as old exporters write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from onnx_files import Node, outputs_of, proto, rand, same, saved, whole
from subbyte.errors import SubbyteError
from subbyte.models.onnx.load import load_onnx

ONE = (1, 4, 6, 8)


def check(
    folder: Path, nodes: list[Node], shape: tuple[int, ...] = ONE, **constants: np.ndarray
) -> None:
    """For three images the module gives what the file gives for each of them."""
    path = saved(proto(nodes, shape=shape, constants=constants, opset=13), folder)
    x = rand(3 * shape[0], *shape[1:])
    (found,) = outputs_of(load_onnx(path), torch.from_numpy(x))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    single = [session.run(None, {"x": x[i : i + shape[0]]})[0] for i in range(0, len(x), shape[0])]
    same(found, np.concatenate(single))


@pytest.mark.parametrize("lengths", [(1, 4, 48), (1, -1, 48), (1, 4, -1), (1, 192), (0, 4, -1)])
def test_shapes_that_hold_the_batch(lengths: tuple[int, ...], tmp_path: Path) -> None:
    check(tmp_path, [("Reshape", "x s", "y")], s=whole(*lengths))


def test_channels_that_are_shuffled(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Reshape", "x apart", "a"),
        ("Transpose", "a", "t", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", "t together", "s"),
        ("Split", "s", "u v", {"axis": 1}),
        ("Sub", "u v", "y"),
    ]
    check(tmp_path, nodes, apart=whole(1, 2, 2, 6, 8), together=whole(1, -1, 6, 8))


def test_heads_that_are_merged_with_the_batch(tmp_path: Path) -> None:
    """A transformer that puts the length first, as PyTorch's own attention does."""
    nodes: list[Node] = [
        ("Reshape", "x flat", "f"),
        ("Transpose", "f", "t", {"perm": [2, 0, 1]}),
        ("Reshape", "t heads", "h"),
        ("Transpose", "h", "q", {"perm": [1, 0, 2]}),
        ("Transpose", "h", "k", {"perm": [1, 2, 0]}),
        ("MatMul", "q k", "p"),
        ("Softmax", "p", "s"),
        ("MatMul", "s q", "o"),
        ("Transpose", "o", "b", {"perm": [1, 0, 2]}),
        ("Reshape", "b merged", "m"),
        ("MatMul", "m w", "l"),
        ("Reshape", "l apart", "e"),
        ("Transpose", "e", "y", {"perm": [1, 2, 0]}),
    ]
    check(
        tmp_path,
        nodes,
        flat=whole(1, 4, 48),
        heads=whole(48, 2, 2),
        merged=whole(48, 4),
        apart=whole(48, 1, 4),
        w=rand(4, 4),
    )


def test_a_token_that_is_there_once(tmp_path: Path) -> None:
    check(tmp_path, [("Concat", "token x", "y", {"axis": 1})], token=rand(1, 1, 6, 8))


def test_a_grid_that_is_there_once(tmp_path: Path) -> None:
    path = saved(
        proto([("GridSample", "x g", "y")], shape=ONE, constants={"g": rand(1, 5, 5, 2)}, opset=16),
        tmp_path,
    )
    x = torch.from_numpy(rand(3, 4, 6, 8))
    module = load_onnx(path)
    (found,) = outputs_of(module, x)
    same(torch.cat([outputs_of(module, x[i : i + 1])[0] for i in range(3)]), found.numpy())


def test_a_slice_of_all_images(tmp_path: Path) -> None:
    nodes: list[Node] = [("Slice", "x s e a", "p"), ("Relu", "p", "y")]
    check(tmp_path, nodes, s=whole(0), e=whole(1), a=whole(0))


@pytest.mark.parametrize("box", [((0, 4), (0, 6), (2, 5)), ((1, 3), (0, 6), (0, 8)), ((1, 3),)])
def test_a_part_that_is_assigned(box: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    lengths = [np.arange(start, end) for start, end in ((0, 1), *box)]
    places = np.stack(np.meshgrid(*lengths, indexing="ij"), -1).astype(np.int64)
    ends = [end for _, end in box]
    nodes: list[Node] = [
        ("Slice", "x s e a", "p"),
        ("Neg", "p", "n"),
        ("ScatterND", "x i n", "y"),
    ]
    constants = {"s": whole(*(start for start, _ in box)), "e": whole(*ends), "i": places}
    check(tmp_path, nodes, a=whole(*range(1, len(box) + 1)), **constants)


def test_a_batch_of_more_than_one(tmp_path: Path) -> None:
    check(tmp_path, [("Reshape", "x s", "y")], (2, 4, 6, 8), s=whole(2, 4, -1))


def test_a_file_that_says_dynamic_and_holds_a_size(tmp_path: Path) -> None:
    nodes: list[Node] = [("Reshape", "x s", "r"), ("Add", "r b", "y")]
    constants = {"s": whole(1, 4, -1), "b": rand(4, 48)}
    model = proto(nodes, shape=("N", 4, 6, 8), constants=constants)
    (found,) = outputs_of(load_onnx(saved(model, tmp_path)), torch.zeros(5, 4, 6, 8))
    assert found.shape == (5, 4, 48)


def test_exported_with_a_dynamic_batch(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Conv", "x w", "c"),
        ("Reshape", "c s", "r"),
        ("Transpose", "r", "y", {"perm": [0, 2, 1]}),
    ]
    model = proto(nodes, shape=ONE, constants={"w": rand(5, 4, 1, 1), "s": whole(1, 5, -1)})
    module = load_onnx(saved(model, tmp_path))
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(
        module, (torch.zeros(2, 4, 6, 8),), dynamic_shapes=(dynamic,)
    ).module()
    x = torch.from_numpy(rand(4, 4, 6, 8))
    assert torch.equal(program(x), module(x))


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            [("Gather", "x zero", "first"), ("Relu", "first", "y")],
            r"fixed to 1 .*'first' \(Gather",
        ),
        ([("ReduceMean", "x axes", "all"), ("Relu", "all", "y")], r"'all' \(ReduceMean\)"),
    ],
)
def test_one_image_alone_is_refused(nodes: list[Node], says: str, tmp_path: Path) -> None:
    constants = {"zero": np.int64(0), "axes": whole(0)}
    read = {name for node in nodes for name in node[1].split()}
    kept = {name: value for name, value in constants.items() if name in read}
    model = proto(nodes, shape=ONE, constants=kept, opset=18)
    with pytest.raises(SubbyteError, match=says):
        load_onnx(saved(model, tmp_path))
