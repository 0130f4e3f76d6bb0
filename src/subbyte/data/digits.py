"""The 1,797 handwritten digits that come with scikit-learn: data without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from subbyte.errors import SubbyteError

# Not the experiment's seed: the bundled weights were trained on the training half, so a split
# that moved with a seed would score them on images they have seen.
SPLIT_SEED = 20180605
TRAIN_IMAGES = 898
CLASSES = tuple(str(digit) for digit in range(10))
FILE = "datasets/data/digits.csv.gz"  # in scikit-learn


def digits_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The training and the evaluation half, stratified by class and the same on every call.

    Returns training images (uint8 [898, 8, 8], 0 to 255), their labels (int64 [898], 0 to 9),
    evaluation images (uint8 [899, 8, 8]) and their labels (int64 [899]).

    Raises:
        SubbyteError: scikit-learn is not installed.
    """
    rows = np.loadtxt(_file(), delimiter=",")
    images = np.round(rows[:, :-1].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    labels = rows[:, -1].astype(np.int64)
    train, evaluation = _halves(labels)
    return images[train], labels[train], images[evaluation], labels[evaluation]


def _file() -> Path:
    """Where the digits are: scikit-learn is not imported, which takes a second and more."""
    spec = find_spec("sklearn")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for path in (Path(folder) / FILE for folder in folders):
        if path.is_file():
            return path
    raise SubbyteError(
        f"the digits come with scikit-learn, and its {FILE} is missing: pip install scikit-learn"
    )


def _halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of both halves, as scikit-learn's `train_test_split(stratify=labels)` draws them.

    NumPy keeps the numbers that `RandomState` draws as they are.
    """
    random = np.random.RandomState(SPLIT_SEED)
    counts = np.bincount(labels)
    train = _of_each_class(counts, TRAIN_IMAGES, random)
    rest = _of_each_class(counts - train, len(labels) - TRAIN_IMAGES, random)
    its_images = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    mixed = [its[random.permutation(len(its))] for its in its_images]
    first = [its[:n] for its, n in zip(mixed, train, strict=True)]
    second = [its[n : n + m] for its, n, m in zip(mixed, train, rest, strict=True)]
    return random.permutation(np.concatenate(first)), random.permutation(np.concatenate(second))


def _of_each_class(counts: np.ndarray, images: int, random: np.random.RandomState) -> np.ndarray:
    """How many to take of each class, in proportion; chance breaks ties.

    Args:
        counts: How many there are of each.
        images: How many to take in all.
        random: What breaks ties.
    """
    exact = counts / counts.sum() * images
    taken: np.ndarray = np.floor(exact)
    left = int(images - taken.sum())
    remainders = exact - taken
    for remainder in np.unique(remainders)[::-1]:
        alike = np.flatnonzero(remainders == remainder)
        more = min(len(alike), left)
        if more > 0:
            taken[random.choice(alike, size=more, replace=False)] += 1
            left -= more
    whole: np.ndarray = taken.astype(np.int64)
    return whole
