from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from subbyte.data.digits import SPLIT_SEED, TRAIN_IMAGES, digits_split
from subbyte.errors import SubbyteError


def test_halves_have_the_promised_shapes_and_types() -> None:
    train, train_labels, evaluation, evaluation_labels = digits_split()
    assert train.shape == (898, 8, 8)
    assert evaluation.shape == (899, 8, 8)
    assert train.dtype == evaluation.dtype == np.uint8
    assert train_labels.shape == (898,)
    assert evaluation_labels.shape == (899,)
    assert train_labels.dtype == evaluation_labels.dtype == np.int64


def test_halves_are_stratified() -> None:
    _, train_labels, _, evaluation_labels = digits_split()
    difference = np.bincount(train_labels) - np.bincount(evaluation_labels)
    assert np.abs(difference).max() <= 1


def test_halves_share_no_image_and_miss_none() -> None:
    train, _, evaluation, _ = digits_split()
    first = {image.tobytes() for image in train}
    second = {image.tobytes() for image in evaluation}
    assert not first & second
    assert len(first | second) == 1797


def test_split_is_the_same_on_every_call() -> None:
    for once, again in zip(digits_split(), digits_split(), strict=True):
        np.testing.assert_array_equal(once, again)


def test_values_are_scaled_to_bytes_and_labels_kept() -> None:
    digits = load_digits()
    known = {
        np.array([round(v * 255 / 16) for v in image.ravel()], np.uint8).tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    train, train_labels, _, _ = digits_split()
    assert train.min() == 0
    assert train.max() == 255
    assert [known[image.tobytes()] for image in train] == train_labels.tolist()


def test_halves_are_those_that_scikit_learn_draws() -> None:
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    first, second, first_labels, second_labels = train_test_split(
        images,
        digits.target,
        train_size=TRAIN_IMAGES,
        test_size=len(images) - TRAIN_IMAGES,
        random_state=SPLIT_SEED,
        stratify=digits.target,
    )
    expected = (first, first_labels, second, second_labels)
    for found, wanted in zip(digits_split(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_without_scikit_learn_the_error_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    with pytest.raises(SubbyteError, match="pip install scikit-learn"):
        digits_split()
