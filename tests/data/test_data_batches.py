from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from subbyte.data import Batches
from subbyte.data.batches import check_calibration, read_batch
from subbyte.data.dataset import ImageArrays
from subbyte.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from .conftest import Refuses

X = torch.zeros(4, 3, 8, 8)
Y = torch.tensor([3, 1, 2, 0])
IMAGES = [torch.zeros(3, 8, 6), torch.zeros(3, 5, 9)]
BOXES = [{"boxes": torch.zeros(1, 4)}, {"boxes": torch.zeros(0, 4)}]


def test_a_tensor_is_the_one_argument() -> None:
    batch = read_batch(X)
    assert len(batch.args) == 1
    assert batch.args[0] is X
    assert (batch.targets, batch.size) == (None, 4)


def test_a_list_of_images_is_the_one_argument() -> None:
    batch = read_batch(IMAGES)
    assert len(batch.args) == 1
    assert batch.args[0] is IMAGES
    assert (batch.targets, batch.size) == (None, 2)


def test_a_tuple_holds_the_arguments() -> None:
    batch = read_batch((X, X, None))
    assert len(batch.args) == 3
    assert batch.targets is None
    assert read_batch((X,)).args == (X,)
    assert read_batch((X, torch.zeros(4))).targets is None  # a float vector is an argument
    assert read_batch((X, torch.tensor([1, 2]))).targets is None  # as is one of another length
    assert len(read_batch((X, X)).args) == 2
    assert read_batch((0.5, X)).size == 4


def test_one_argument_may_hold_several_tensors() -> None:
    for argument in ({"left": X, "right": X}, [X, X], {"both": [X, X], "share": 0.5}):
        batch = read_batch((argument,))
        assert len(batch.args) == 1
        assert batch.args[0] is argument
        assert (batch.targets, batch.size) == (None, 4)
        labelled = read_batch(((argument,), Y))
        assert labelled.args[0] is argument
        assert labelled.targets is Y
        assert check_calibration([(argument,), (argument,)])


@pytest.mark.parametrize("pair", [(X, Y), [X, Y], {"inputs": X, "targets": Y}])
def test_pairs(pair: Any) -> None:
    batch = read_batch(pair)
    assert len(batch.args) == 1
    assert batch.args[0] is X
    assert batch.targets is Y
    assert batch.size == 4


@given(
    st.integers(1, 9),
    st.sampled_from([torch.int64, torch.int32, torch.uint8]),
    st.sampled_from([tuple, list]),
)
def test_any_integer_vector_as_long_as_the_batch_is_a_target(
    size: int, dtype: torch.dtype, kind: type
) -> None:
    batch = read_batch(kind([torch.zeros(size, 3, 4, 4), torch.zeros(size, dtype=dtype)]))
    assert (len(batch.args), batch.size) == (1, size)
    assert len(batch.targets) == size  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [IMAGES, tuple(IMAGES)])
@pytest.mark.parametrize("boxes", [BOXES, tuple(BOXES)])
def test_target_dictionaries(images: Any, boxes: Any) -> None:
    for pair in ((images, boxes), [images, boxes]):
        batch = read_batch(pair)
        assert len(batch.args) == 1
        assert isinstance(batch.args[0], list)
        assert batch.targets is boxes
        assert batch.size == 2


def test_images_of_different_sizes_with_their_classes() -> None:
    batch = read_batch((tuple(IMAGES), (5, 7)))
    assert len(batch.args) == 1
    assert isinstance(batch.args[0], list)
    assert batch.targets.tolist() == [5, 7]  # type: ignore[union-attr]


def test_numpy_targets_become_a_tensor() -> None:
    assert read_batch((X, np.array([1, 2, 3, 4]))).targets.tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize("labels", [np.array([1, 2, 3, 4]), [1, 2, 3, 4], (1, 2, 3, 4)])
def test_targets_that_are_named_become_a_tensor(labels: Any) -> None:
    found = read_batch({"inputs": X, "targets": labels}).targets
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [1, 2, 3, 4]


def test_other_arrays_are_no_targets() -> None:
    for array in (np.array(["a"] * 4), np.zeros(4)):
        assert read_batch((X, array)).targets is None


def test_two_arguments_and_targets() -> None:
    batch = read_batch(((X, X), Y))
    assert len(batch.args) == 2
    assert batch.targets is Y
    assert len(read_batch({"inputs": (X, X), "targets": Y}).args) == 2
    assert read_batch({"inputs": IMAGES}).size == 2
    assert read_batch({"inputs": X, "targets": None}).targets is None


def test_data_loaders() -> None:
    data = TensorDataset(X, Y)
    for raw in check_calibration(DataLoader(data, batch_size=2)):
        batch = read_batch(raw)
        assert (len(batch.args), batch.size) == (1, 2)
        assert batch.targets.dtype == torch.int64  # type: ignore[union-attr]
    (raw,) = DataLoader(TensorDataset(X), batch_size=8)
    assert isinstance(raw, list)
    assert read_batch(raw).args[0].shape == X.shape
    pairs = [(image, {"labels": torch.tensor([1])}) for image in IMAGES]
    (raw,) = DataLoader(
        pairs, batch_size=2, collate_fn=lambda items: tuple(zip(*items, strict=True))
    )
    assert read_batch(raw).size == 2


def test_own_batches() -> None:
    images = ImageArrays(np.zeros((5, 8, 8), np.uint8), [0, 1, 2, 3, 4], Preprocessing())
    first, second = map(read_batch, check_calibration(Batches(images, 3)))
    assert (first.size, second.size) == (3, 2)
    assert second.targets.tolist() == [3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (np.zeros((4, 3, 8, 8)), "a ndarray"),
        ("image.jpg", "a str"),
        (None, "a NoneType"),
        ([], "an empty list"),
        ((), "an empty tuple"),
        (["a", "b", "c"], "a list of 3 (str)"),
        ([X, X, Y], "a list of 3 (1-dimensional tensor, 4-dimensional tensor)"),
        (torch.tensor(1.0), "a tensor of shape []"),
        ({"pixel_values": X, "labels": Y}, "a mapping with the keys 'pixel_values', 'labels'"),
        ({"inputs": X, "target": Y}, "the keys 'inputs', 'target'"),
        ({}, "a mapping with no keys"),
        ({"inputs": "a"}, "a str"),
        ((1.5, "a"), "a tuple of 2 (float, str)"),
        (X[:0], "a batch is empty"),
        ({"inputs": X, "targets": Y[:3]}, "a batch has 4 images and 3 targets"),
        ((IMAGES, BOXES[:1]), "a batch has 2 images and 1 targets"),
    ],
)
def test_what_is_no_batch(raw: object, told: str, refuses: Refuses) -> None:
    with refuses(told):
        read_batch(raw)


class Stream(IterableDataset[torch.Tensor]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([X] * self.count)


@pytest.mark.parametrize("calibration", [[X], (X, X), Stream(2), DataLoader(Stream(2))])
def test_calibration_is_returned_as_it_is(calibration: object) -> None:
    assert check_calibration(calibration) is calibration


@pytest.mark.parametrize(
    ("calibration", "told"),
    [
        ((x for x in [X]), "a generator, which can be walked once only: make it a list"),
        (iter([X]), "a list_iterator, which"),
        (map(str, [1]), "make it a list"),
        (X, "a tensor of shape [4, 3, 8, 8], a single batch: put it into a list"),
        ({"inputs": X}, "a mapping with the keys 'inputs', a single batch"),
        ((X, Y), "a tuple of 2 (1-dimensional tensor, 4-dimensional tensor), a single batch"),
        (TensorDataset(X, Y), "put it into a DataLoader"),
        (5, "calibration is an int: give a list of batches or a DataLoader"),
        ("images", "calibration is a str"),
        (None, "calibration is a NoneType"),
        ([], "calibration is empty"),
        (Stream(0), "calibration is empty"),
        (DataLoader(TensorDataset(X[:0])), "calibration is empty"),
    ],
)
def test_what_is_no_calibration(calibration: object, told: str, refuses: Refuses) -> None:
    with refuses(told):
        check_calibration(calibration)


def test_checking_takes_no_random_numbers() -> None:
    loader = DataLoader(TensorDataset(X, Y), shuffle=True)
    state = torch.get_rng_state()
    check_calibration(loader)
    assert torch.equal(torch.get_rng_state(), state)
